"""Rounding of rows to 8-bit integers at random, with the probabilities that keep the mean."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from mergekit_omp.pursuit.compiled import kernel
from mergekit_omp.pursuit.tiles import largest

STEPS = 127
"""Integers run from minus this to this; `SHIFT` makes them unsigned."""
SHIFT = 128


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
    integers: UInt8[np.ndarray, "whole dims"],
    scales: Float[np.ndarray, "rows"],
) -> None:
    """Writes rows `first` to `last` as `(integers - SHIFT) * scales`.

    Two seeds round in ways that have nothing to do with each other. `tiny` is the least scale.
    """
    for row in range(first, last):
        values = rows[row]
        out = integers[row]
        scale = max(largest(values) / STEPS, tiny)
        scales[row] = scale
        factor = 1 / scale
        key = mixed(np.uint32(np.uint32(row) ^ mixed(np.uint32(seed))))
        for x in range(values.shape[0]):
            bits = mixed(np.uint32(key + np.uint32(x) * np.uint32(0x9E3779B1)))
            chance = np.float32(bits >> np.uint32(8)) * np.float32(2**-24)
            # Positive, so that cutting off the fraction rounds down.
            value = np.int32(np.float32(values[x] * factor) + np.float32(SHIFT) + chance)
            out[x] = min(max(value, np.int32(SHIFT - STEPS)), np.int32(SHIFT + STEPS))
