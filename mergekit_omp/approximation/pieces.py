"""Rows of tokens from the rows of the pieces that a tokenizer cuts them into."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.codes import working_dtype


def combine_pieces(
    matrix: Float[Tensor, "rows dim"],
    segments: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float]],
) -> Float[Tensor, "segments dim"]:
    """The weighted sum of the rows of each segment; zeros for one without pieces.

    float32, or float64 where `matrix` is.
    """
    dtype, device = working_dtype(matrix), matrix.device
    result = matrix.new_zeros((len(segments), matrix.shape[1]), dtype=dtype)
    longest = max(map(len, segments), default=0)
    for block in chunks(len(segments), dtype.itemsize * longest * matrix.shape[1]):
        pieces = torch.tensor(list(chain.from_iterable(segments[block])), dtype=torch.int64)
        if len(pieces) == 0:
            continue
        starts = list(accumulate(map(len, segments[block]), initial=0))[:-1]
        result[block] = functional.embedding_bag(
            torch.arange(len(pieces), device=device),
            matrix[pieces.to(device)].to(dtype),
            torch.tensor(starts, device=device),
            mode="sum",
            per_sample_weights=torch.tensor(
                list(chain.from_iterable(weights[block])), dtype=dtype, device=device
            ),
        )
    return result
