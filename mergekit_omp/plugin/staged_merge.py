"""Has `mergekit.merge.run_merge` write into a stage (`transplant.staging`) for our methods.

The stage is created when the planner calls `begin`, after all checks, so that a merge that is
refused does not touch the disk.
"""

from __future__ import annotations

import functools
import importlib
import sys
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from mergekit_omp.transplant.methods import find
from mergekit_omp.transplant.staging import OutputDirectory, disk_errors

_current: ContextVar[OutputDirectory | None] = ContextVar("output_directory", default=None)


def begin(out_path: str) -> None:
    """Create the stage `out_path`, if this merge has one.

    TransplantError where it cannot be created.
    """
    directory = _current.get()
    if directory is not None and directory.stage == out_path:
        directory.open()


def wrap_run_merge() -> None:
    """Patch `run_merge` in `mergekit.merge`, and in modules of mergekit that have imported it."""
    merge = sys.modules.get("mergekit.merge") or importlib.import_module("mergekit.merge")
    if "run_merge" not in vars(merge):
        # The module is being imported and imports the planner; `run_merge` is not yet defined.
        merge.__class__ = _ModuleWithStagedMerge
        return
    original = merge.run_merge
    wrapped = staged(original)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "mergekit" and vars(module).get("run_merge") is original:
            module.run_merge = wrapped  # type: ignore[attr-defined]


class _ModuleWithStagedMerge(ModuleType):
    """The class of `mergekit.merge` until `run_merge` is first read, which then gets patched."""

    @property
    def run_merge(self) -> Any:
        """The patched function."""
        self.run_merge = staged(vars(self)["run_merge"])
        return vars(self)["run_merge"]

    @run_merge.setter
    def run_merge(self, function: Any) -> None:
        self.__class__ = ModuleType  # type: ignore[assignment]
        vars(self)["run_merge"] = function


def staged(original: Any) -> Any:
    """`run_merge`, which for our methods writes into a stage and publishes it at the end."""

    @functools.wraps(original)
    def run_merge(
        merge_config: Any, out_path: str, options: Any, config_source: str | None = None
    ) -> None:
        if find(merge_config.merge_method) is None:
            original(merge_config, out_path, options, config_source)
            return
        directory = OutputDirectory(out_path)
        token = _current.set(directory)
        try:
            with disk_errors(out_path):
                original(merge_config, directory.stage, options, config_source)
                directory.publish()
        finally:
            _current.reset(token)
            directory.close()

    return run_merge
