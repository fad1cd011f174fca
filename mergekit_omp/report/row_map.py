"""Rows in two dimensions: the principal components of copied rows, by an exact eigensolver."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from mergekit_omp.report.contents import RowMap, evenly

_SAMPLE = 700
"""Rows of each kind: as many as can be told apart, and their Gram matrix is small."""


def row_map(
    matrix: Float[Tensor, "rows dim"],
    copied: Int[np.ndarray, "copied"],
    approximated: Int[np.ndarray, "approximated"],
) -> RowMap | None:
    """The map of a sample of rows; None where too few rows were copied or they are all alike."""
    of_copied = _rows(matrix, evenly(copied, _SAMPLE))
    of_new = _rows(matrix, evenly(approximated, _SAMPLE))
    if len(of_copied) < 3:
        return None
    middle = of_copied.mean(0)
    offsets = of_copied - middle
    # Of the sample's Gram matrix, which is smaller than the covariance of wide rows.
    values, vectors = torch.linalg.eigh(offsets @ offsets.T)
    total = float(values.clamp_min(0).sum())
    if not total > 0 or values[-2] <= 1e-12 * values[-1]:
        return None
    lengths = values[[-1, -2]].sqrt()
    axes = offsets.T @ (vectors[:, [-1, -2]] / lengths)
    # An eigenvector's sign is arbitrary: its largest entry is positive here.
    axes *= axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return RowMap(
        copied=_flat(offsets @ axes),
        approximated=_flat((of_new - middle) @ axes),
        explained=float(values[[-1, -2]].sum()) / total,
    )


def _rows(
    matrix: Float[Tensor, "rows dim"], ids: Int[np.ndarray, "some"]
) -> Float64[Tensor, "finite dim"]:
    rows = matrix[torch.from_numpy(ids)].double()
    return rows[rows.isfinite().all(1)]


def _flat(points: Float64[Tensor, "some 2"]) -> Float64[np.ndarray, "some 2"]:
    flat: np.ndarray = points.numpy()
    return flat
