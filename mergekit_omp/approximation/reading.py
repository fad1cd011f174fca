"""Rows of a matrix on a CPU, read where they are: as features, and in weighted sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from mergekit_omp.kernels.compiled import kernel, obstacle
from mergekit_omp.kernels.threads import in_threads

TOGETHER = 64
"""Rows that a thread writes at least: fewer are not worth a second thread."""
READ = torch.bfloat16, torch.float32


def readable(matrix: Float[Tensor, "rows dim"], dtype: torch.dtype) -> bool:
    """Whether these kernels read its rows, for results of a dtype."""
    there = matrix.device.type == "cpu" and matrix.is_contiguous() and obstacle() is None
    return there and matrix.dtype in READ and matrix.dtype.itemsize <= dtype.itemsize


@dataclass(frozen=True, eq=False)
class Features:
    """What turns rows of a readable matrix into features: less a mean, times a factor."""

    bits: Shaped[np.ndarray, "rows dim"]
    place: np.uint32
    """See `bits_of`."""
    mean: Float[np.ndarray, "dim"]
    factor: Any

    @classmethod
    def of(
        cls, matrix: Float[Tensor, "rows dim"], mean: Float[Tensor, "dim"], length: float
    ) -> Features:
        """Features of the dtype of `mean`, which are `length` times as small as the offsets."""
        factor = torch.tensor(1 / length, dtype=mean.dtype).numpy()[()]
        return cls(*bits_of(matrix), mean.numpy(), factor)

    def write(
        self,
        rows: Int64[np.ndarray, "tokens"],
        to: Float[np.ndarray, "tokens width"],
        start: int = 0,
        blank: bool = True,
    ) -> None:
        """To columns from `start` on, in this thread. Where a row is -1: zeros, or what was there
        if not `blank`."""
        write_features(self.bits, self.place, rows, self.mean, self.factor, start, blank, to)

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
    given = *bits_of(matrix), rows.numpy(), bounds.numpy(), weights.numpy(), sums.numpy()
    in_threads(lambda first, last: add_rows(first, last, *given), len(sums), TOGETHER)
    return sums


def bits_of(
    matrix: Float[Tensor, "rows dim"],
) -> tuple[Shaped[np.ndarray, "rows dim"], np.uint32]:
    """A readable matrix as kernels take it: bits, and what times them are those of a float32."""
    if matrix.dtype == torch.bfloat16:  # the first half of a float32
        return matrix.view(torch.uint16).numpy(), np.uint32(1 << 16)
    return matrix.view(torch.uint32).numpy(), np.uint32(1)


@kernel
def write_features(
    bits: Shaped[np.ndarray, "rows dim"],
    place: np.uint32,
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
        row = bits[rows[i]]
        for x in range(mean.shape[0]):
            out[x] = (np.uint32(np.uint32(row[x]) * place).view(np.float32) - mean[x]) * factor


@kernel
def add_rows(
    first: int,
    last: int,
    bits: Shaped[np.ndarray, "rows dim"],
    place: np.uint32,
    rows: Int64[np.ndarray, "entries"],
    bounds: Int64[np.ndarray, "boundaries"],
    weights: Float[np.ndarray, "entries"],
    sums: Float[np.ndarray, "sums dim"],
) -> None:
    """Adds to sums `first` to `last`."""
    for i in range(first, last):
        out = sums[i]
        for at in range(bounds[i], bounds[i + 1]):
            row, weight = bits[rows[at]], weights[at]
            for x in range(out.shape[0]):
                out[x] += weight * np.uint32(np.uint32(row[x]) * place).view(np.float32)
