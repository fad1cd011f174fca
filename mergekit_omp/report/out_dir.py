"""What a merge left in its output directory, for the report: the record, the config, tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from jaxtyping import Shaped
from mergekit.io import LazyTensorLoader, ShardedTensorIndex
from torch import Tensor

from mergekit_omp.approximation import APPROXIMATIONS
from mergekit_omp.errors import TransplantError
from mergekit_omp.models.weight_files import check_weights
from mergekit_omp.outside.faults import of_library
from mergekit_omp.outside.files import read_text
from mergekit_omp.record import row_facts
from mergekit_omp.record.reading import read_record
from mergekit_omp.record.record import FILE_NAME
from mergekit_omp.record.row_facts import RowFacts

CONFIG = "mergekit_config.yml"
_AGAIN = "Put the whole output of a merge there, or merge again."


@dataclass(frozen=True, eq=False)
class OutDir:
    """One merge's output, read lazily: of its weights only the tensors that are asked for."""

    path: Path
    record: dict[str, Any] = field(repr=False)
    config: str | None
    """The YAML of the merge, where mergekit wrote it."""
    facts: dict[tuple[int, int], RowFacts] | None
    """By the numbers of model and tensor in the record; None without the file of row facts."""

    @classmethod
    def open(cls, path: Path) -> OutDir:
        """Reads the record. TransplantError where `path` is no output of this plugin."""
        file = path / FILE_NAME
        if not path.is_dir():
            raise TransplantError(
                f"{path} is not a directory. Name the output directory of a merge."
            )
        if not file.is_file():
            raise TransplantError(
                f"{path} has no {FILE_NAME}, which every merge with one of the plugin's methods "
                "writes. Name the output directory of such a merge."
            )
        record = read_record(file)
        _check_methods(file, record)
        written = path / CONFIG
        config = read_text(written, _AGAIN) if written.is_file() else None
        _refuse_a_later_merge(path, record, config)
        return cls(
            path=path,
            record=record,
            config=config,
            facts=row_facts.load(path, record),
        )

    @cached_property
    def _loader(self) -> LazyTensorLoader:
        check_weights(self.path, "The output")
        with of_library(f"{self.path} holds no weights that can be read", _AGAIN):
            return LazyTensorLoader(ShardedTensorIndex.from_disk(str(self.path)))

    def tensor(self, name: str) -> Shaped[Tensor, "..."]:
        """One tensor of the output. TransplantError where it is missing or damaged."""
        held = self._loader.index.tensor_paths
        if name not in held:
            raise TransplantError(
                f"{self.path} has no tensor {name}, which {FILE_NAME} describes. Put all of the "
                "merge's weight files there, or merge again."
            )
        file = self.path / held[name]
        with of_library(f"The tensor {name} cannot be read from {file}", _AGAIN):
            return self._loader.get_tensor(name)


def _refuse_a_later_merge(path: Path, record: dict[str, Any], config: str | None) -> None:
    """mergekit's own merges leave the record of an earlier one where it is."""
    try:
        settings = yaml.safe_load(config or "")
    except yaml.YAMLError:
        return
    later = settings.get("merge_method") if isinstance(settings, dict) else None
    if later not in (None, record["merge_method"]):
        raise TransplantError(
            f"In {path} a later merge ({later}) was written over the one that {FILE_NAME} tells of "
            f"({record['merge_method']}): there is nothing to report. Remove {FILE_NAME}, or merge "
            "anew into an empty directory."
        )


def _check_methods(file: Path, record: dict[str, Any]) -> None:
    for model in record["models"]:
        for entry in model["tensors"]:
            if entry["method"] not in APPROXIMATIONS:
                raise TransplantError(
                    f"{file} names the method {entry['method']!r}, which this version of "
                    f"mergekit-omp does not have. {_AGAIN}"
                )
