"""What `mergekit_omp.pth` imports at interpreter start: wait for `mergekit.plan`, then activate.

Runs in every Python process of the environment, so it imports nothing that Python has not
loaded by itself, and the hook steps aside for every module but one.
"""

import os
import sys

_SEAM = "mergekit.plan"


class _Loader:
    """The module's own loader, with activation after the module has run."""

    def __init__(self, loader):  # type: ignore[no-untyped-def]
        self._loader = loader

    def __getattr__(self, name):  # type: ignore[no-untyped-def]
        return getattr(self._loader, name)

    def create_module(self, spec):  # type: ignore[no-untyped-def]
        return self._loader.create_module(spec)

    def exec_module(self, module):  # type: ignore[no-untyped-def]
        module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        from mergekit_omp import plugin

        plugin.activate()


class _Finder:
    """Finds `mergekit.plan` through the other finders and wraps its loader."""

    @staticmethod
    def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != _SEAM:
            return None
        for finder in sys.meta_path:
            if finder is _Finder or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader)
                return spec
        return None


def disabled() -> bool:
    """Whether the environment turns the plugin off (`MERGEKIT_OMP_DISABLE=1`)."""
    return os.environ.get("MERGEKIT_OMP_DISABLE", "").lower() not in ("", "0", "false", "no")


def install() -> None:
    """Put the hook in place, once; activate now where mergekit is already loaded."""
    if disabled() or _Finder in sys.meta_path:
        return
    if _SEAM in sys.modules:
        from mergekit_omp import plugin

        plugin.activate()
        return
    sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
