"""`python -m mergekit_omp CONFIG OUT [mergekit-yaml's options]`: where a site forbids .pth files."""

from __future__ import annotations

import sys

from mergekit_omp import autoload


def main() -> None:
    """Activate the plugin, then hand over to mergekit-yaml."""
    if autoload.disabled():
        sys.exit(
            "Error: MERGEKIT_OMP_DISABLE turns mergekit-omp off. Unset it to use this command."
        )
    # Importing mergekit's own command imports `mergekit.plan`, which activates the plugin.
    from mergekit.scripts.run_yaml import main as mergekit_yaml

    mergekit_yaml(prog_name="python -m mergekit_omp")


if __name__ == "__main__":
    main()
