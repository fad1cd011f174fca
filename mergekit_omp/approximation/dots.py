"""Inner products of vectors with a few rows of a matrix each, read where they are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from mergekit_omp.approximation.reading import READ, bits_of
from mergekit_omp.kernels.compiled import kernel
from mergekit_omp.kernels.threads import in_threads


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
    if matrix.dtype in READ and matrix.is_contiguous():
        bits, place = bits_of(matrix)
        in_threads(lambda first, last: multiply(first, last, bits, place, *given), len(vectors))
    else:
        for i in range(len(vectors)):
            part = slice(int(bounds[i]), int(bounds[i + 1]))
            found[part] = matrix[rows[part]].to(vectors.dtype) @ vectors[i]
    return found


@kernel
def multiply(
    first: int,
    last: int,
    bits: Shaped[np.ndarray, "rows dim"],
    place: np.uint32,
    vectors: Float[np.ndarray, "vectors dim"],
    rows: Int64[np.ndarray, "pairs"],
    bounds: Int64[np.ndarray, "boundaries"],
    found: Float[np.ndarray, "pairs"],
) -> None:
    """Writes the products of vectors `first` to `last`; `bits` and `place` are of `bits_of`."""
    for i in range(first, last):
        vector = vectors[i]
        for at in range(bounds[i], bounds[i + 1]):
            row = bits[rows[at]]
            total = vector[0] * 0
            for x in range(vector.shape[0]):
                total += np.uint32(np.uint32(row[x]) * place).view(np.float32) * vector[x]
            found[at] = total
