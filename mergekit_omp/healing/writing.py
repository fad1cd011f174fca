"""The healed model's directory: the files of the one that is healed, with the trained rows in place.

Rows are written into copies of the weight files, byte by byte where they lie, so that all else
in them is what it was. The layout is that of https://huggingface.co/docs/safetensors: eight bytes
with the length of a header, the header in JSON, the tensors.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from mergekit.io import ShardedTensorIndex
from torch import Tensor

from mergekit_omp.errors import TransplantError
from mergekit_omp.healing.rows import Matrix
from mergekit_omp.models.headers import torch_dtype
from mergekit_omp.models.weight_files import check_weights
from mergekit_omp.record import record as records
from mergekit_omp.record import row_facts

CARD = "README.md"
_LEFT = (records.FILE_NAME, CARD)
"""What is written anew."""


def weight_files(folder: Path) -> dict[str, Path]:
    """The file of each tensor. TransplantError where weights are not whole, or of another format."""
    check_weights(folder, "The model")
    index = ShardedTensorIndex.from_disk(str(folder))
    if not index.is_safetensors:
        raise TransplantError(
            f"{folder} has no weights in safetensors files, the only ones in which rows can be "
            "replaced. Merge again without --no-safe-serialization."
        )
    return {name: folder / file for name, file in index.tensor_paths.items()}


def size_of(folder: Path, record: dict[str, Any]) -> int:
    """Bytes of all files that a healed copy of the model has."""
    return sum(
        file.stat().st_size
        for name in _names(folder, record)
        for file in ([folder / name] if (folder / name).is_file() else (folder / name).rglob("*"))
        if file.is_file()
    )


def copy_model(folder: Path, record: dict[str, Any], stage: Path) -> None:
    """Copy what the merge wrote into `folder`, the record and the card apart; links as files."""
    for name in _names(folder, record):
        if name in _LEFT:
            continue
        if (folder / name).is_dir():
            shutil.copytree(folder / name, stage / name)
        else:
            shutil.copyfile(folder / name, stage / name)


def put_rows(stage: Path, trained: Iterable[tuple[Matrix, Float[Tensor, "ids dim"]]]) -> None:
    """Write the rows of each matrix into the copied weights, in their dtype."""
    files = weight_files(stage)
    for matrix, rows in trained:
        for tensor in matrix.tensors:
            replace_rows(files[tensor], tensor, matrix.ids, rows)


def put_tensors(stage: Path, weights: Mapping[str, Float[Tensor, "rows columns"]]) -> None:
    """Write whole matrices into the copied weights, in their dtype."""
    files = weight_files(stage)
    for tensor, weight in weights.items():
        replace_rows(files[tensor], tensor, np.arange(len(weight)), weight)


def replace_rows(
    file: Path, tensor: str, ids: Int64[np.ndarray, "ids"], rows: Float[Tensor, "ids dim"]
) -> None:
    """Write rows of one tensor of a safetensors file, in its dtype, and nothing else."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        entry = json.loads(opened.read(length))[tensor]
    dtype, (count, width) = torch_dtype(entry["dtype"]), entry["shape"]
    stored = rows.to(dtype).contiguous()
    # As float32: torch cannot tell of every dtype of 8 bits.
    if not torch.isfinite(stored.float()).all():
        raise TransplantError(
            f"The trained rows of {tensor} are not finite as {dtype}. Begin anew with --restart and "
            "a smaller --learning-rate."
        )
    place = np.memmap(
        file,
        dtype=np.uint8,
        mode="r+",
        offset=8 + length + entry["data_offsets"][0],
        shape=(count, width * dtype.itemsize),
    )
    place[ids] = stored.view(torch.uint8).numpy()
    place.flush()


def _names(folder: Path, record: dict[str, Any]) -> list[str]:
    """What the merge wrote, as far as it is still there; of older records, all files."""
    listed = record.get("files")
    held = sorted(os.listdir(folder))
    if not isinstance(listed, list):
        return [name for name in held if (folder / name).is_file()]
    return [name for name in held if name in listed or name == row_facts.FILE_NAME]
