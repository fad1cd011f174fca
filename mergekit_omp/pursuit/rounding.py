"""Rounding of rows to 8-bit integers at random, with the probabilities that keep the mean."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor

from mergekit_omp.kernels.compiled import kernel
from mergekit_omp.kernels.threads import in_threads
from mergekit_omp.pursuit.tiles import largest

STEPS = 127
"""Integers run from minus this to this."""
WIDTH = 3.5
"""Seven standard deviations of a random rounding, in steps: what scaling loses is far less."""


def rounded(
    rows: Float[Tensor, "rows dim"], seed: int
) -> tuple[Int8[Tensor, "rows dim"], Float[Tensor, "rows"]]:
    """Rows on a CPU as integers times a scale.

    Two seeds round in ways that have nothing to do with each other.
    """
    integers = torch.empty(rows.shape, dtype=torch.int8)
    scales = rows.new_empty(len(rows))
    arguments = seed, torch.finfo(rows.dtype).tiny, integers.numpy(), scales.numpy()
    in_threads(lambda first, last: round_rows(first, last, rows.numpy(), *arguments), len(rows))
    return integers, scales


@kernel
def mixed(word: np.uint32) -> np.uint32:
    """A hash of 32 bits in which every bit counts (the finaliser of MurmurHash3)."""
    word = np.uint32(word ^ (word >> np.uint32(16)))
    word = np.uint32(word * np.uint32(0x85EBCA6B))
    word = np.uint32(word ^ (word >> np.uint32(13)))
    word = np.uint32(word * np.uint32(0xC2B2AE35))
    return np.uint32(word ^ (word >> np.uint32(16)))


@kernel
def round_rows(
    first: int,
    last: int,
    rows: Float[np.ndarray, "rows dim"],
    seed: int,
    tiny: float,
    integers: Int8[np.ndarray, "rows dim"],
    scales: Float[np.ndarray, "rows"],
) -> None:
    """Writes rows `first` to `last` as integers times scales; `tiny` is the least scale."""
    for row in range(first, last):
        values, out = rows[row], integers[row]
        scale = max(largest(values) / STEPS, tiny)
        scales[row] = scale
        factor = 1 / scale
        key = mixed(np.uint32(np.uint32(row) ^ mixed(np.uint32(seed))))
        for x in range(values.shape[0]):
            bits = mixed(np.uint32(key + np.uint32(x) * np.uint32(0x9E3779B1)))
            chance = np.float32(bits >> np.uint32(8)) * np.float32(2**-24)
            # Positive, so that cutting off the fraction rounds down.
            value = np.int32(np.float32(values[x] * factor) + np.float32(STEPS + 1) + chance)
            out[x] = min(max(value - np.int32(STEPS + 1), np.int32(-STEPS)), np.int32(STEPS))
