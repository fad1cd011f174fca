"""`tokenizer_transplant.npz`: what became of each row, and how well it fits, for the report.

Two arrays for each vocabulary tensor of each model, of one number per row of the output. They are
kept apart from `tokenizer_transplant.json`, which stays short enough to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int8

from mergekit_omp.outside.archives import read_arrays

FILE_NAME = "tokenizer_transplant.npz"


class Origin(IntEnum):
    """Where a row of the output comes from."""

    PADDING = 0
    COPIED = 1
    APPROXIMATED = 2
    WITHOUT_DONOR_ROW = 3
    OVERRIDDEN = 4


@dataclass(frozen=True, eq=False)
class RowFacts:
    """What is known of each row of one aligned tensor."""

    origin: Int8[np.ndarray, "rows"]
    """The `Origin` of each row."""
    fit: Float32[np.ndarray, "rows"]
    """The method's figure of fit; NaN where a row was not approximated, or the method has none."""

    @classmethod
    def of(
        cls,
        rows: int,
        copied: Int[np.ndarray, "copied"],
        approximated: Iterable[Int[np.ndarray, "_some"]],
        without_donor_row: Int[np.ndarray, "without_donor_row"],
        overrides: Iterable[tuple[Any, ...]],
    ) -> RowFacts:
        """Facts without figures of fit, from the output ids of each kind (`overrides` start with it)."""
        origin = np.full(rows, Origin.PADDING, dtype=np.int8)
        origin[copied] = Origin.COPIED
        for ids in approximated:
            origin[ids] = Origin.APPROXIMATED
        origin[without_donor_row] = Origin.WITHOUT_DONOR_ROW
        origin[[output_id for output_id, *_ in overrides]] = Origin.OVERRIDDEN
        return cls(origin, np.full(rows, np.nan, dtype=np.float32))


def save(folder: str, facts: Mapping[tuple[int, int], RowFacts]) -> None:
    """Write the file; `facts` by the numbers of model and tensor in the record. Same facts, same bytes."""
    arrays: dict[str, Any] = {}
    for (m, t), of_tensor in facts.items():
        arrays[f"origin.{m}.{t}"] = of_tensor.origin
        arrays[f"fit.{m}.{t}"] = of_tensor.fit
    np.savez_compressed(Path(folder) / FILE_NAME, **arrays)


def load(folder: Path, record: dict[str, Any]) -> dict[tuple[int, int], RowFacts] | None:
    """What `save` wrote into `folder` beside `record`; None where there is no such file.

    TransplantError where the file is not whole, or holds anything else.
    """
    if not (folder / FILE_NAME).is_file():
        return None
    wanted: dict[str, tuple[np.dtype[Any], int]] = {}
    for m, model in enumerate(record["models"]):
        for t, entry in enumerate(model["tensors"]):
            rows = entry["counts"]["rows"]
            wanted[f"origin.{m}.{t}"] = np.dtype(np.int8), rows
            wanted[f"fit.{m}.{t}"] = np.dtype(np.float32), rows
    arrays = read_arrays(folder / FILE_NAME, wanted, "Merge again, or delete it.")
    return {
        (m, t): RowFacts(arrays[f"origin.{m}.{t}"], arrays[f"fit.{m}.{t}"])
        for m, model in enumerate(record["models"])
        for t in range(len(model["tensors"]))
        if {f"origin.{m}.{t}", f"fit.{m}.{t}"} <= arrays.keys()
    }
