"""What a merge left in its output directory, for the report: the record, the config, tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from mergekit.io import LazyTensorLoader, ShardedTensorIndex
from safetensors import SafetensorError
from torch import Tensor

from mergekit_omp.errors import TransplantError
from mergekit_omp.record import row_facts
from mergekit_omp.record.record import FILE_NAME, FORMAT
from mergekit_omp.record.row_facts import RowFacts

CONFIG = "mergekit_config.yml"
_KEYS = ("merge_method", "approximation", "output", "models", "warnings", "versions")
_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, SafetensorError)
_TENSOR_KEYS = ("tensor", "part", "method", "parameters", "donors", "counts")


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
        config = path / CONFIG
        return cls(
            path=path,
            record=_read_record(file),
            config=config.read_text(encoding="utf-8") if config.is_file() else None,
            facts=row_facts.load(path),
        )

    @cached_property
    def _loader(self) -> LazyTensorLoader:
        try:
            return LazyTensorLoader(ShardedTensorIndex.from_disk(str(self.path)))
        except _UNREADABLE as error:
            raise TransplantError(
                f"{self.path} holds no weights that can be read ({error}). Name the whole output "
                "of a merge."
            ) from error

    def tensor(self, name: str) -> Shaped[Tensor, "..."]:
        """One tensor of the output. TransplantError where it is missing or damaged."""
        held = self._loader.index.tensor_paths
        if name not in held:
            raise TransplantError(
                f"{self.path} has no tensor {name}, which {FILE_NAME} describes. Put all of the "
                "merge's weight files there, or merge again."
            )
        try:
            return self._loader.get_tensor(name)
        except _UNREADABLE as error:
            raise TransplantError(
                f"The tensor {name} cannot be read from {self.path / held[name]} ({error}). Merge "
                "again."
            ) from error


def _read_record(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TransplantError(f"{file} is damaged ({error}). Merge again.") from error
    if isinstance(record, dict) and record.get("format", FORMAT) != FORMAT:
        raise TransplantError(
            f"{file} has the layout {record['format']}, and this version reads {FORMAT}. Use the "
            "version of mergekit-omp that wrote it."
        )
    missing = _missing(record)
    if missing:
        raise TransplantError(f"{file} is damaged (it lacks {missing}). Merge again.")
    return dict(record)


def _missing(record: Any) -> str | None:
    """The first thing that a record must have and this one has not."""
    if not isinstance(record, dict):
        return "everything: it is not a JSON object"
    for key in _KEYS:
        if key not in record:
            return f"`{key}`"
    if not isinstance(record["models"], list) or not record["models"]:
        return "a list of `models`"
    for model in record["models"]:
        if not isinstance(model, dict) or not isinstance(model.get("tensors"), list):
            return "`tensors` of a model"
        for tensor in model["tensors"]:
            for key in _TENSOR_KEYS:
                if not isinstance(tensor, dict) or key not in tensor:
                    return f"`{key}` of a tensor"
    return None
