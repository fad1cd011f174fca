"""Which atoms may have the largest correlation, from products of 8-bit integers.

Scaled back, a product is off by at most a margin (docs/pursuit-bounds.md); an atom stays a candidate
while its correlation plus the margin, its upper bound, reaches a floor, the largest lower bound that
was seen so far.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64

from mergekit_omp.pursuit.compiled import kernel

CAPACITY = 512
"""Candidates kept for a residual; where more are left, all atoms are decided exactly."""

Picks = Int64[np.ndarray, "capacity"]
Uppers = Float32[np.ndarray, "capacity"]
Units = Float32[np.ndarray, "batch"]


class Coarse(NamedTuple):
    """Atoms as integers times a scale.

    The correlation of a residual and atom `x` is `product * unit * scale[x]`, where `unit` is the
    residual's own scale, off by at most `extra * scale[x] + unit * margin[x]`.
    """

    scale: Float32[np.ndarray, "atoms"]
    margin: Float32[np.ndarray, "atoms"]
    extra: np.float32


class Kept(NamedTuple):
    """Candidates of a batch of residuals. A count above the capacity says that some were lost."""

    floors: Float32[np.ndarray, "batch"]
    picks: Int64[np.ndarray, "batch capacity"]
    uppers: Float32[np.ndarray, "batch capacity"]
    counts: Int64[np.ndarray, "batch"]


@kernel
def compact(picks: Picks, uppers: Uppers, count: int, floor: float) -> int:
    """Drops the candidates that fell below the floor; returns how many are left."""
    kept = 0
    for x in range(count):
        if uppers[x] >= floor:
            picks[kept] = picks[x]
            uppers[kept] = uppers[x]
            kept += 1
    return kept


@kernel
def collect(
    first: int,
    products: Int32[np.ndarray, "rows strip"],
    low: int,
    units: Units,
    coarse: Coarse,
    kept: Kept,
) -> None:
    """Adds the candidates among some atoms, the first of which is atom `low`, to those of residuals.

    `products` are those of the residuals from `first` on with these atoms.
    """
    last, extra = low + products.shape[1], coarse.extra
    # Slices: indices that start from zero are known not to be negative, as vectors need.
    scales, margins = coarse.scale[low:last], coarse.margin[low:last]
    for x in range(products.shape[0]):
        row = first + x
        unit, floor, count = units[row], kept.floors[row], kept.counts[row]
        picks, uppers = kept.picks[row], kept.uppers[row]
        line, some = products[x], np.int32(0)
        for y in range(line.shape[0]):
            upper = (abs(np.float32(line[y])) * unit + extra) * scales[y] + unit * margins[y]
            some = np.int32(some + np.int32(upper >= floor))
        if some == 0:
            continue
        # Barred atoms are orthogonal to the residual, so they do not raise the floor: whoever
        # decides looks after those that are not.
        for y in range(line.shape[0]):
            lower = (abs(np.float32(line[y])) * unit - extra) * scales[y] - unit * margins[y]
            floor = max(floor, lower)
        for y in range(line.shape[0]):
            upper = (abs(np.float32(line[y])) * unit + extra) * scales[y] + unit * margins[y]
            if upper < floor:
                continue
            if count == CAPACITY:
                count = compact(picks, uppers, count, floor)
            if count < CAPACITY:
                picks[count], uppers[count] = low + y, upper
                count += 1
            else:
                count = CAPACITY + 1
                break
        kept.floors[row], kept.counts[row] = floor, count
