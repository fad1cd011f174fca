"""Which of some vectors may have the largest products with others, from products of 8-bit integers.

Scaled back, a product is off by at most a margin (docs/pursuit-bounds.md); a vector stays a candidate
while its product plus the margin, its upper bound, reaches a floor, the least of the largest lower
bounds that were seen so far.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int8, Int32, Int64
from torch import Tensor

from mergekit_omp.kernels.compiled import kernel
from mergekit_omp.kernels.threads import in_threads
from mergekit_omp.pursuit.rounding import WIDTH

CAPACITY = 512
"""Candidates kept for a target."""
TILE, STRIP = 512, 512
"""Targets and vectors multiplied at a time: their products stay in a core's cache."""
RUN = 64
"""Vectors that are passed over at once."""
SLACK = 1 + 1e-5
"""For what bounds lose in float32."""

Picks = Int64[np.ndarray, "capacity"]
Uppers = Float32[np.ndarray, "capacity"]


class Coarse(NamedTuple):
    """Vectors as integers times a scale each.

    With a target of length 1, as integers times a scale `s`, the product in units of `s` is that of
    the integers times `scales[x]`, off by at most `WIDTH / s * scales[x] + margins[x]`.
    """

    scales: Float32[np.ndarray, "vectors"]
    margins: Float32[np.ndarray, "vectors"]

    @classmethod
    def of(cls, scales: Tensor, lengths: Tensor) -> Coarse:
        margins = lengths.float() * (WIDTH * SLACK)
        return cls(scales.float().numpy(), margins.numpy())


class Kept(NamedTuple):
    """Candidates of targets, in units of a target's scale; a count above the capacity says that
    some were lost."""

    lowers: Float32[np.ndarray, "targets wanted"]
    """The largest lower bounds."""
    floors: Float32[np.ndarray, "targets"]
    """The least of these."""
    picks: Int64[np.ndarray, "targets capacity"]
    uppers: Float32[np.ndarray, "targets capacity"]
    counts: Int64[np.ndarray, "targets"]


def screen(
    targets: Int8[Tensor, "targets dim"],
    scales: Float32[Tensor, "targets"],
    vectors: Int8[Tensor, "vectors dim"],
    coarse: Coarse,
    wanted: int = 1,
    magnitudes: bool = False,
    least: Float[Tensor, "targets"] | None = None,
) -> Kept:
    """The candidates for the `wanted` vectors of the largest products, or magnitudes of products.

    Targets have length 1, or are zero. Products below `least` are not wanted.
    """
    shape = len(targets), CAPACITY
    floors = np.full(len(targets), 0 if magnitudes else -np.inf, np.float32)
    if least is not None:
        floors = (least / scales.clamp_min(1e-30)).float().numpy()
    kept = Kept(
        floors[:, None].repeat(wanted, 1),
        floors,
        np.empty(shape, np.int64),
        np.empty(shape, np.float32),
        np.zeros(len(targets), np.int64),
    )
    slopes = (WIDTH / scales.clamp_min(1e-30)).numpy()

    def work(first: int, last: int) -> None:
        room = torch.empty(min(TILE, last - first) * STRIP, dtype=torch.int32)
        for low in range(0, len(vectors), STRIP):
            strip = vectors[low : low + STRIP]
            for top in range(first, last, TILE):
                rows = targets[top : min(top + TILE, last)]
                products = room[: len(rows) * len(strip)].view(len(rows), len(strip))
                # Not public, and the only product of 8-bit integers that torch has.
                torch._int_mm(rows, strip.T, out=products)
                collect(top, low, products.numpy(), slopes, coarse, magnitudes, kept)
        weed_out(first, last, kept)

    # Each thread multiplies its own rows, so that none waits for another.
    in_threads(work, len(targets))
    return kept


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
def reaching(
    products: Int32[np.ndarray, "run"],
    scales: Float32[np.ndarray, "run"],
    slope: float,
    level: float,
    magnitudes: bool,
) -> int:
    """How many upper bounds, before their margins, reach a level."""
    # A count as wide as the products, so that as many are compared at once.
    count, more, floor = np.int32(0), scales.dtype.type(slope), scales.dtype.type(level)
    for x in range(products.shape[0]):
        size = abs(products[x]) if magnitudes else products[x]
        count = np.int32(count + np.int32((np.float32(size) + more) * scales[x] >= floor))
    return int(count)


@kernel
def collect(
    first: int,
    low: int,
    products: Int32[np.ndarray, "rows strip"],
    slopes: Float32[np.ndarray, "targets"],
    coarse: Coarse,
    magnitudes: bool,
    kept: Kept,
) -> None:
    """Adds the candidates among some vectors, the first of which is `low`, for targets from `first`."""
    width, capacity = products.shape[1], kept.picks.shape[1]
    # Slices: indices that start from zero are known not to be negative, as vectors need.
    scales, margins = coarse.scales[low : low + width], coarse.margins[low : low + width]
    widest = margins.max()
    for x in range(products.shape[0]):
        row = first + x
        slope, floor = slopes[row], kept.floors[row]
        if reaching(products[x], scales, slope, floor - widest, magnitudes) == 0:
            continue
        bounds, count = kept.lowers[row], kept.counts[row]
        picks, uppers, weakest = kept.picks[row], kept.uppers[row], np.argmin(bounds)
        for at in range(0, width, RUN):
            line, steps = products[x, at : at + RUN], scales[at : at + RUN]
            if count > capacity or reaching(line, steps, slope, floor - widest, magnitudes) == 0:
                continue
            extra = margins[at:]
            for y in range(steps.shape[0]):
                size = abs(line[y]) if magnitudes else line[y]
                upper = (np.float32(size) + slope) * steps[y] + extra[y]
                if upper < floor:
                    continue
                lower = (np.float32(size) - slope) * steps[y] - extra[y]
                if lower > floor:
                    bounds[weakest] = lower
                    weakest = np.argmin(bounds)
                    floor = bounds[weakest]
                if count == capacity:
                    count = compact(picks, uppers, count, floor)
                if count == capacity:
                    count += 1
                    break
                picks[count], uppers[count] = low + at + y, upper
                count += 1
        kept.floors[row], kept.counts[row] = floor, count


@kernel
def weed_out(first: int, last: int, kept: Kept) -> None:
    """Drops the candidates of targets `first` to `last` that lower bounds have passed since."""
    for row in range(first, last):
        count = kept.counts[row]
        if count <= kept.picks.shape[1]:
            kept.counts[row] = compact(kept.picks[row], kept.uppers[row], count, kept.floors[row])
