"""Rows of a matrix on a CPU, read where they are: as features, and in weighted sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt16
from torch import Tensor

from mergekit_omp.pursuit.compiled import kernel, obstacle
from mergekit_omp.pursuit.threads import in_threads

TOGETHER = 64
"""Rows that a thread writes at least: fewer are not worth a second thread."""
READ = torch.bfloat16, torch.float32, torch.float64


def readable(matrix: Float[Tensor, "rows dim"], dtype: torch.dtype) -> bool:
    """Whether these kernels read its rows, for results of a dtype."""
    there = matrix.device.type == "cpu" and matrix.is_contiguous() and obstacle() is None
    return there and matrix.dtype in READ and matrix.dtype.itemsize <= dtype.itemsize


@dataclass(frozen=True, eq=False)
class Features:
    """What turns rows of a readable matrix into features: less a mean, times a factor."""

    values: Shaped[np.ndarray, "rows dim"]
    """Those of bfloat16 as the bits that they are."""
    mean: Float[np.ndarray, "dim"]
    factor: Any

    @classmethod
    def of(
        cls, matrix: Float[Tensor, "rows dim"], mean: Float[Tensor, "dim"], length: float
    ) -> Features:
        """Features of the dtype of `mean`, which are `length` times as small as the offsets."""
        factor = torch.tensor(1 / length, dtype=mean.dtype).numpy()[()]
        return cls(_plain(matrix), mean.numpy(), factor)

    def write(
        self,
        rows: Int64[np.ndarray, "tokens"],
        to: Float[np.ndarray, "tokens width"],
        start: int = 0,
        blank: bool = True,
    ) -> None:
        """To columns from `start` on, in this thread. Where a row is -1: zeros, or what was there
        if not `blank`."""
        write = half_features if self.values.dtype == np.uint16 else whole_features
        write(self.values, rows, self.mean, self.factor, start, blank, to)

    def write_in_threads(
        self, rows: Int64[Tensor, "tokens"], to: Float[Tensor, "tokens width"], start: int
    ) -> None:
        whose, out = rows.numpy(), to.numpy()
        in_threads(lambda a, b: self.write(whose[a:b], out[a:b], start), len(whose), TOGETHER)


def sums_of_rows(
    matrix: Float[Tensor, "rows dim"],
    rows: Int64[Tensor, "entries"],
    bounds: Int64[Tensor, "boundaries"],
    weights: Float[Tensor, "entries"],
) -> Float[Tensor, "sums dim"]:
    """Sum i is that of the rows `rows[bounds[i]:bounds[i + 1]]`, times their weights."""
    sums = weights.new_zeros((len(bounds) - 1, matrix.shape[1]))
    values = _plain(matrix)
    add: Callable[..., None] = half_sums if values.dtype == np.uint16 else whole_sums
    given = values, rows.numpy(), bounds.numpy(), weights.numpy(), sums.numpy()
    in_threads(lambda first, last: add(first, last, *given), len(sums), TOGETHER)
    return sums


def _plain(matrix: Tensor) -> np.ndarray:
    return (matrix.view(torch.uint16) if matrix.dtype == torch.bfloat16 else matrix).numpy()


@kernel
def whole_features(
    matrix: Float[np.ndarray, "rows dim"],
    rows: Int64[np.ndarray, "tokens"],
    mean: Float[np.ndarray, "dim"],
    factor: float,
    start: int,
    blank: bool,
    to: Float[np.ndarray, "tokens width"],
) -> None:
    """Writes the features of tokens."""
    for i in range(rows.shape[0]):
        out = to[i, start : start + mean.shape[0]]
        if rows[i] < 0:
            for x in range(mean.shape[0] if blank else 0):
                out[x] = 0
            continue
        row = matrix[rows[i]]
        for x in range(mean.shape[0]):
            out[x] = (row[x] - mean[x]) * factor


@kernel
def half_features(
    matrix: UInt16[np.ndarray, "rows dim"],
    rows: Int64[np.ndarray, "tokens"],
    mean: Float[np.ndarray, "dim"],
    factor: float,
    start: int,
    blank: bool,
    to: Float[np.ndarray, "tokens width"],
) -> None:
    """The same for a matrix of bfloat16: the first half of a float32."""
    for i in range(rows.shape[0]):
        out = to[i, start : start + mean.shape[0]]
        if rows[i] < 0:
            for x in range(mean.shape[0] if blank else 0):
                out[x] = 0
            continue
        row = matrix[rows[i]]
        for x in range(mean.shape[0]):
            value = np.uint32(np.uint32(row[x]) << np.uint32(16)).view(np.float32)
            out[x] = (value - mean[x]) * factor


@kernel
def whole_sums(
    first: int,
    last: int,
    matrix: Float[np.ndarray, "rows dim"],
    rows: Int64[np.ndarray, "entries"],
    bounds: Int64[np.ndarray, "boundaries"],
    weights: Float[np.ndarray, "entries"],
    sums: Float[np.ndarray, "sums dim"],
) -> None:
    """Adds to sums `first` to `last`."""
    for i in range(first, last):
        out = sums[i]
        for at in range(bounds[i], bounds[i + 1]):
            row, weight = matrix[rows[at]], weights[at]
            for x in range(out.shape[0]):
                out[x] += weight * row[x]


@kernel
def half_sums(
    first: int,
    last: int,
    matrix: UInt16[np.ndarray, "rows dim"],
    rows: Int64[np.ndarray, "entries"],
    bounds: Int64[np.ndarray, "boundaries"],
    weights: Float[np.ndarray, "entries"],
    sums: Float[np.ndarray, "sums dim"],
) -> None:
    """The same for a matrix of bfloat16."""
    for i in range(first, last):
        out = sums[i]
        for at in range(bounds[i], bounds[i + 1]):
            row, weight = matrix[rows[at]], weights[at]
            for x in range(out.shape[0]):
                out[x] += weight * np.uint32(np.uint32(row[x]) << np.uint32(16)).view(np.float32)
