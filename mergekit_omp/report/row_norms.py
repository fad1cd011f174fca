"""Norms of rows, and their distances from a mean row, a block of rows at a time."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

_BLOCK = 8192


def row_norms(
    matrix: Float[Tensor, "rows dim"],
    ids: Int[np.ndarray, "some"] | None = None,
    middle: Float64[Tensor, "dim"] | None = None,
) -> Float64[np.ndarray, "some"]:
    """Euclidean norms of rows (all, or `ids`), or of their offsets from `middle`."""
    chosen = torch.arange(len(matrix)) if ids is None else torch.from_numpy(ids)
    found = np.empty(len(chosen))
    for start in range(0, len(chosen), _BLOCK):
        rows = matrix[chosen[start : start + _BLOCK]].double()
        if middle is not None:
            rows -= middle
        found[start : start + len(rows)] = rows.norm(dim=1).numpy()
    return found
