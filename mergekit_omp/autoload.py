"""The hook that activates the plugin when `mergekit.plan` is imported. The module is the finder.

`mergekit_omp.pth` puts a finder of two lines in place at interpreter start, which hands over to
this one. It holds them itself: to import even a small module cost every Python process of the
environment over a millisecond where no bytecode is cached.
"""

import os
import sys

_SEAM = "mergekit.plan"


def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
    """What the other finders find for mergekit's planner, with activation after it has run."""
    if name != _SEAM or disabled():
        return None
    for finder in sys.meta_path:
        if finder is not sys.modules[__name__] and hasattr(finder, "find_spec"):
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                from mergekit_omp.plugin.hooks import ActivatingLoader

                spec.loader = ActivatingLoader(spec.loader)  # type: ignore[assignment]
                return spec
    return None


def disabled() -> bool:
    """Whether the environment turns the plugin off (`MERGEKIT_OMP_DISABLE=1`)."""
    return os.environ.get("MERGEKIT_OMP_DISABLE", "").lower() not in ("", "0", "false", "no")


def install() -> None:
    """Put the hook in place, once; activate now where mergekit is already loaded."""
    finder = sys.modules[__name__]
    if disabled() or finder in sys.meta_path:
        return
    if _SEAM in sys.modules:
        from mergekit_omp.plugin import hooks

        hooks.activate()
    else:
        sys.meta_path.insert(0, finder)
