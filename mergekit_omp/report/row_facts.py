"""`tokenizer_transplant.npz`: what became of each row, and how well it fits, for the report.

Two arrays for each vocabulary tensor of each model, of one number per row of the output. They are
kept apart from `tokenizer_transplant.json`, which stays short enough to read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int8

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
    relative_residual: Float32[np.ndarray, "rows"]
    """Residual norm over the norm of the donor's row; NaN where a row was not coded in anchors."""

    @classmethod
    def of(
        cls,
        rows: int,
        copied: Int[np.ndarray, "copied"],
        approximated: Iterable[Int[np.ndarray, "some"]],
        unserved: Int[np.ndarray, "unserved"],
        overridden: Iterable[int],
    ) -> RowFacts:
        """Facts without residuals, from the output ids of each kind."""
        origin = np.full(rows, Origin.PADDING, dtype=np.int8)
        origin[copied] = Origin.COPIED
        for ids in approximated:
            origin[ids] = Origin.APPROXIMATED
        origin[unserved] = Origin.WITHOUT_DONOR_ROW
        origin[list(overridden)] = Origin.OVERRIDDEN
        return cls(origin, np.full(rows, np.nan, dtype=np.float32))


def save(folder: Path, facts: dict[tuple[int, int], RowFacts]) -> None:
    """Writes the facts of each (model, tensor), counted as in the record; the same bytes always."""
    arrays: dict[str, Any] = {}
    for (model, tensor), found in facts.items():
        arrays[f"origin.{model}.{tensor}"] = found.origin
        arrays[f"relative_residual.{model}.{tensor}"] = found.relative_residual
    np.savez_compressed(folder / FILE_NAME, **arrays)


def load(folder: Path) -> dict[tuple[int, int], RowFacts] | None:
    """What `save` wrote into `folder`; None where there is no such file, or not a whole one."""
    try:
        with np.load(folder / FILE_NAME, allow_pickle=False) as arrays:
            keys = [name.split(".")[1:] for name in arrays.files if name.startswith("origin.")]
            return {
                (int(model), int(tensor)): RowFacts(
                    arrays[f"origin.{model}.{tensor}"],
                    arrays[f"relative_residual.{model}.{tensor}"],
                )
                for model, tensor in keys
            }
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None
