"""`python -m mergekit_omp`: both commands where a site has neither scripts nor .pth files.

`python -m mergekit_omp CONFIG OUT [options]` is `mergekit-yaml` with the plugin, and
`python -m mergekit_omp inspect CONFIG` and its like are `mergekit-omp`.
"""

from __future__ import annotations

import signal
import sys

from mergekit_omp import autoload

PROGRAM = "python -m mergekit_omp"


def command() -> None:
    """The script `mergekit-omp`. Ctrl-C ends it without a traceback while it is being loaded too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from mergekit_omp.cli import main as mergekit_omp

    # From here on click takes it, and says "Aborted!".
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mergekit_omp()


def main() -> None:
    """Hand over to `mergekit-omp` if the first word is one of its own, else to mergekit-yaml."""
    from mergekit_omp.cli import main as mergekit_omp

    words = sys.argv[1:] or ["--help"]
    if words[0] in mergekit_omp.commands or words[0] in ("-h", "--help", "--version"):
        mergekit_omp(words, prog_name=PROGRAM)
    if autoload.disabled():
        sys.exit(
            "Error: MERGEKIT_OMP_DISABLE turns mergekit-omp off. Unset it to use this command."
        )
    # Importing mergekit's own command imports `mergekit.plan`, which activates the plugin.
    from mergekit.scripts.run_yaml import main as mergekit_yaml

    mergekit_yaml(prog_name=PROGRAM)


if __name__ == "__main__":
    main()
