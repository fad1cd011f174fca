"""Inner products of vectors with a few rows of a matrix each, read where they are."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt16
from torch import Tensor

from mergekit_omp.pursuit.compiled import kernel
from mergekit_omp.pursuit.threads import in_threads
from mergekit_omp.pursuit.tiles import dot


def ragged_products(
    vectors: Float[Tensor, "vectors dim"],
    matrix: Float[Tensor, "rows dim"],
    rows: Int64[Tensor, "pairs"],
    bounds: Int64[Tensor, "boundaries"],
) -> Float[Tensor, "pairs"]:
    """Those of vector i with the rows `rows[bounds[i]:bounds[i + 1]]`, on a CPU, in its dtype."""
    found = vectors.new_empty(len(rows))
    vectors = vectors.contiguous()
    given = vectors.numpy(), rows.numpy(), bounds.numpy(), found.numpy()
    if matrix.dtype == torch.bfloat16 and matrix.is_contiguous():
        halves = matrix.view(torch.uint16).numpy()
        in_threads(lambda first, last: multiply_halves(first, last, halves, *given), len(vectors))
    elif matrix.dtype == vectors.dtype and matrix.is_contiguous():
        whole = matrix.numpy()
        in_threads(lambda first, last: multiply(first, last, whole, *given), len(vectors))
    else:
        for i in range(len(vectors)):
            part = slice(int(bounds[i]), int(bounds[i + 1]))
            found[part] = matrix[rows[part]].to(vectors.dtype) @ vectors[i]
    return found


@kernel
def multiply(
    first: int,
    last: int,
    matrix: Float[np.ndarray, "rows dim"],
    vectors: Float[np.ndarray, "vectors dim"],
    rows: Int64[np.ndarray, "pairs"],
    bounds: Int64[np.ndarray, "boundaries"],
    found: Float[np.ndarray, "pairs"],
) -> None:
    """Writes the products of vectors `first` to `last`."""
    for i in range(first, last):
        for at in range(bounds[i], bounds[i + 1]):
            found[at] = dot(matrix[rows[at]], vectors[i])


@kernel
def multiply_halves(
    first: int,
    last: int,
    matrix: UInt16[np.ndarray, "rows dim"],
    vectors: Float[np.ndarray, "vectors dim"],
    rows: Int64[np.ndarray, "pairs"],
    bounds: Int64[np.ndarray, "boundaries"],
    found: Float[np.ndarray, "pairs"],
) -> None:
    """The same for a matrix of bfloat16: the first half of a float32."""
    for i in range(first, last):
        vector = vectors[i]
        for at in range(bounds[i], bounds[i + 1]):
            row = matrix[rows[at]]
            total = vector[0] * 0
            for x in range(vector.shape[0]):
                total += np.uint32(np.uint32(row[x]) << np.uint32(16)).view(np.float32) * vector[x]
            found[at] = total
