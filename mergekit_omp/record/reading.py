"""Reads `tokenizer_transplant.json`, and takes nothing in it on trust."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from mergekit_omp.errors import TransplantError
from mergekit_omp.outside.files import read_json, validated
from mergekit_omp.record.record import FILE_NAME, FORMAT

MOST_MODELS = 100
LARGEST = 64 << 20
"""Bytes of the largest record that is read; a usual one has a few thousand."""
_AGAIN = "Merge again."

Number = Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]


class _Counts(BaseModel, extra="allow"):
    rows: Number
    copied: Number
    approximated: Number
    without_donor_row: Number = 0
    overridden: Number = 0
    padding: Number = 0


class _Donor(BaseModel, extra="allow"):
    model: str
    tensor: str | None
    missing: Number
    anchors: Number


class _Figures(BaseModel, extra="allow"):
    mean: float
    median: float


class _Tensor(BaseModel, extra="allow"):
    tensor: str
    part: Literal["input", "head", "head_bias"]
    method: str
    parameters: dict[str, Any]
    donors: list[_Donor]
    counts: _Counts
    predicted_error: _Figures | None = None
    relative_residual: _Figures | None = None
    similarity: _Figures | None = None
    pieces: _Figures | None = None


class _Model(BaseModel, extra="allow"):
    model: str
    tensors: list[_Tensor]
    approximated_ids: str | None = None


class _Output(BaseModel, extra="allow"):
    tokenizer_source: str
    tokens: Number
    vocab_size: Number


class _Record(BaseModel, extra="allow"):
    merge_method: str
    approximation: str
    base_model: str | None = None
    output: _Output
    models: list[_Model] = Field(min_length=1)
    lost: float | None = Field(default=None, ge=0, le=1)
    warnings: list[str]
    versions: dict[str, str]


def read_record(file: Path) -> dict[str, Any]:
    """The record in `file`. TransplantError where it is not whole, or was tampered with."""
    record = read_json(file, dict, _AGAIN, largest=LARGEST)
    if record.get("format", FORMAT) != FORMAT:
        raise TransplantError(
            f"{file} has the layout {str(record['format'])[:40]}, and this version reads {FORMAT}. "
            "Use the version of mergekit-omp that wrote it."
        )
    models = validated(file, record, _Record, _AGAIN).models
    if len(models) > MOST_MODELS:
        raise TransplantError(
            f"{file} names {len(models)} models, and at most {MOST_MODELS} are read. {_AGAIN}"
        )
    _check_unique(file, "models", [model.model for model in models])
    for model in models:
        _check_unique(file, f"tensors of {model.model}", [t.tensor for t in model.tensors])
    return record


def record_beside(folder: Path) -> dict[str, Any] | None:
    """The record in a model's folder, None where there is none."""
    return read_record(folder / FILE_NAME) if (folder / FILE_NAME).is_file() else None


def _check_unique(file: Path, what: str, names: list[str]) -> None:
    name, count = Counter(names).most_common(1)[0] if names else ("", 1)
    if count > 1:
        raise TransplantError(f"{file} lists {name!r} {count} times among its {what}. {_AGAIN}")
