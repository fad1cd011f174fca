"""Which atoms may have the largest correlation, from products of 8-bit integers.

Scaled back, a product is off by at most a margin (docs/pursuit-bounds.md); an atom stays a candidate
while its correlation plus the margin, its upper bound, reaches a floor, the largest lower bound that
was seen so far.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64

from mergekit_omp.pursuit.compiled import kernel
from mergekit_omp.pursuit.decision import decide

TILE = 64
"""Atoms that are passed over together."""
CAPACITY = 512
"""Candidates kept for a residual; where more are left, all atoms are decided exactly."""
NEVER = 1 << 30
"""A product that no 8-bit integers have."""


Picks = Int64[np.ndarray, "capacity"]
Uppers = Float32[np.ndarray, "capacity"]
Units = Float32[np.ndarray, "batch"]


class Coarse(NamedTuple):
    """Atoms as integers times a scale, in the order of their scales, tile by tile.

    The correlation of a residual and atom `order[x]` is `product * unit * scale[x]`, where `unit`
    is the residual's own scale, off by at most `extra * scale[x] + unit * margin[x]`.
    """

    order: Int64[np.ndarray, "atoms"]
    scale: Float32[np.ndarray, "atoms"]
    margin: Float32[np.ndarray, "atoms"]
    steepest: Float32[np.ndarray, "tiles"]
    """The largest scale in each tile."""
    widest: Float32[np.ndarray, "tiles"]
    """The largest margin in each tile."""
    extra: np.float32


class Kept(NamedTuple):
    """Candidates of a batch of residuals. A count above the capacity says that some were lost."""

    floors: Float32[np.ndarray, "batch"]
    picks: Int64[np.ndarray, "batch capacity"]
    uppers: Float32[np.ndarray, "batch capacity"]
    counts: Int64[np.ndarray, "batch"]


def none_kept(batch: int) -> Kept:
    """No candidates yet."""
    shape = batch, CAPACITY
    floors, counts = np.zeros(batch, np.float32), np.zeros(batch, np.int64)
    return Kept(floors, np.empty(shape, np.int64), np.empty(shape, np.float32), counts)


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
def peak(line: Int32[np.ndarray, "width"]) -> np.int32:
    """The largest magnitude of a few integers."""
    top = np.int32(0)
    for x in range(line.shape[0]):
        top = np.int32(max(top, abs(line[x])))
    return top


@kernel
def least(floor: float, unit: float, tile: int, coarse: Coarse) -> np.int32:
    """The least product of a tile that may be a candidate's."""
    bound = (floor - unit * coarse.widest[tile]) / coarse.steepest[tile] - coarse.extra
    # Cut off, and one less for what float32 rounds away.
    bound = bound / unit * np.float32(1 - 1e-6) - 1
    return np.int32(min(max(bound, np.float32(0)), np.float32(NEVER)))


@kernel
def collect(
    first: int,
    products: Int32[np.ndarray, "rows strip"],
    low: int,
    units: Units,
    coarse: Coarse,
    kept: Kept,
) -> None:
    """Adds the candidates among some atoms, the first in place `low`, to those of residuals.

    `products` are those of the residuals from `first` on with these atoms.
    """
    for at in range(0, products.shape[1], TILE):
        tile = (low + at) // TILE
        for x in range(products.shape[0]):
            line, row = products[x, at : at + TILE], first + x
            if peak(line) >= least(kept.floors[row], units[row], tile, coarse):
                collect_tile(line, low + at, row, units[row], coarse, kept)


@kernel
def collect_tile(
    line: Int32[np.ndarray, "tile"], low: int, row: int, unit: float, coarse: Coarse, kept: Kept
) -> None:
    """Adds the candidates of one tile, which begins at place `low`, to those of a residual.

    `line` are the residual's products with the tile.
    """
    # Slices: indices that start from zero are known not to be negative, as vectors need.
    scales, margins = coarse.scale[low : low + TILE], coarse.margin[low : low + TILE]
    extra = coarse.extra
    floor = kept.floors[row]
    count = kept.counts[row]
    picks, uppers = kept.picks[row], kept.uppers[row]
    # Barred atoms are orthogonal to the residual, so they do not raise the floor: `settle` looks
    # after those that are not.
    for x in range(scales.shape[0]):
        value = abs(np.float32(line[x])) * unit
        floor = max(floor, (value - extra) * scales[x] - unit * margins[x])
    for x in range(scales.shape[0]):
        value = abs(np.float32(line[x])) * unit
        upper = (value + extra) * scales[x] + unit * margins[x]
        if upper < floor:
            continue
        if count == picks.shape[0]:
            count = compact(picks, uppers, count, floor)
        if count < picks.shape[0]:
            picks[count] = coarse.order[low + x]
            uppers[count] = upper
            count += 1
        else:
            count = picks.shape[0] + 1
            break
    kept.floors[row] = floor
    kept.counts[row] = count


@kernel
def settle(
    first: int,
    last: int,
    residuals: Float[np.ndarray, "batch dim"],
    lengths: Float[np.ndarray, "batch"],
    atoms: Float[np.ndarray, "atoms dim"],
    barred: Bool[np.ndarray, "batch atoms"],
    kept: Kept,
    best: Float[np.ndarray, "batch"],
    found: Int64[np.ndarray, "batch"],
) -> None:
    """Writes the largest correlation among the candidates that are not barred, and its atom.

    `lengths` are what a correlation of 1 is in each residual's floor and upper bounds.
    """
    for row in range(first, last):
        picks, uppers, count = kept.picks[row], kept.uppers[row], kept.counts[row]
        place, value = -1, 0.0
        if count <= picks.shape[0]:
            for x in range(count):
                if barred[row, picks[x]]:
                    uppers[x] = -np.inf
            place, value = decide(picks, uppers, count, lengths[row], atoms, residuals[row], -1.0)
        # Candidates were lost, or a barred atom set the floor.
        if place < 0 or abs(value) < kept.floors[row] * lengths[row]:
            picks = np.nonzero(~barred[row])[0]
            uppers = np.full(picks.shape[0], np.float32(np.inf))
            place, value = decide(picks, uppers, len(picks), 1.0, atoms, residuals[row], -1.0)
        best[row] = abs(value) if place >= 0 else -1
        found[row] = picks[place] if place >= 0 else 0
