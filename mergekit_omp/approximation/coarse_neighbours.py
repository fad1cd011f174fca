"""Which anchors may be among the nearest, from products of 8-bit integers.

The rounding is that of a pursuit's screening, whose error bound holds whatever the data
(docs/pursuit-bounds.md): every anchor that may be one of the nearest is a candidate, for whoever
asks to decide exactly. Worth it where a processor multiplies 8-bit integers faster than floats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int8, Int32, Int64
from torch import Tensor

from mergekit_omp.approximation.chunks import strips
from mergekit_omp.pursuit.candidates import compact
from mergekit_omp.pursuit.compiled import kernel
from mergekit_omp.pursuit.rounding import WIDTH, rounded
from mergekit_omp.pursuit.threads import in_threads
from mergekit_omp.pursuit.ways import Way, obstacle

CAPACITY = 512
"""Candidates kept for a target."""
TILE, STRIP = 1024, 512
"""Targets and anchors that are multiplied at a time: their products stay in a core's cache."""
RUN = 64
"""Anchors that are passed over at once."""


def worthwhile(device: torch.device) -> bool:
    """Whether a device multiplies 8-bit integers, and fast."""
    return obstacle(Way.BYTES, device) is None


@dataclass(frozen=True, eq=False)
class CoarseAnchors:
    """Anchors' directions, as 8-bit integers times a scale each, and their lengths."""

    integers: Int8[Tensor, "anchors dim"]
    scales: Float32[Tensor, "anchors"]
    lengths: Float[Tensor, "anchors"]

    @classmethod
    def of(
        cls,
        count: int,
        dim: int,
        dtype: torch.dtype,
        vectors: Callable[[slice], Tensor],
        progress: bool = False,
    ) -> CoarseAnchors:
        """From what gives the vectors of a part of the anchors."""
        made = cls(
            torch.empty((count, dim), dtype=torch.int8),
            torch.empty(count, dtype=torch.float32),
            torch.empty(count, dtype=dtype),
        )
        bytes_each = 3 * dtype.itemsize * dim
        for part in strips(count, bytes_each, progress=progress, label="Rounding"):
            rows = vectors(part)
            lengths = torch.linalg.vector_norm(rows, dim=1).clamp_min(torch.finfo(dtype).tiny)
            made.integers[part], made.scales[part] = rounded(rows / lengths[:, None], part.start)
            # A vector of zeros has a cosine of 0 with all.
            made.lengths[part] = lengths.where(lengths > torch.finfo(dtype).tiny, torch.inf)
        return made

    @property
    def bytes_each(self) -> int:
        """What one target takes."""
        return 12 * CAPACITY + self.integers.shape[1]

    def candidates(
        self, targets: Float[Tensor, "targets dim"], count: int
    ) -> tuple[Int64[Tensor, "candidates"], Int64[Tensor, "targets"]]:
        """The anchors that may be the `count` nearest of each target by cosine, one target's after
        another's, and how many each has; -1: more than there is room for, of which none is told.

        Targets have length 1, or are zero.
        """
        integers, scales = rounded(targets, seed=len(self.scales))
        slopes = (WIDTH / scales.float().clamp_min(1e-30)).numpy()
        shape = len(targets), CAPACITY
        lowest = np.full((len(targets), count), -np.inf, np.float32)
        picks, uppers = np.empty(shape, np.int64), np.empty(shape, np.float32)
        counts = np.zeros(len(targets), np.int64)

        def work(first: int, last: int) -> None:
            room = torch.empty(min(TILE, last - first) * STRIP, dtype=torch.int32)
            for low in range(0, len(self.scales), STRIP):
                strip = self.integers[low : low + STRIP]
                across = self.scales[low : low + STRIP].numpy()
                for top in range(first, last, TILE):
                    part = slice(top, min(top + TILE, last))
                    rows = integers[part]
                    products = room[: len(rows) * len(strip)].view(len(rows), len(strip))
                    torch._int_mm(rows, strip.T, out=products)
                    found = picks[part], uppers[part], counts[part]
                    collect(low, products.numpy(), across, slopes[part], lowest[part], *found)
            weed_out(first, last, lowest, picks, uppers, counts)

        in_threads(work, len(targets))
        sizes = torch.from_numpy(counts)
        held = torch.arange(CAPACITY) < sizes[:, None]
        return torch.from_numpy(picks)[held], sizes


@kernel
def collect(
    low: int,
    products: Int32[np.ndarray, "targets strip"],
    scales: Float32[np.ndarray, "strip"],
    slopes: Float32[np.ndarray, "targets"],
    lowest: Float32[np.ndarray, "targets count"],
    picks: Int64[np.ndarray, "targets capacity"],
    uppers: Float32[np.ndarray, "targets capacity"],
    counts: Int64[np.ndarray, "targets"],
) -> None:
    """Adds the candidates among some anchors, of which the first is anchor `low`.

    A cosine, in units of the target's scale, is the product times the anchor's scale, and off by at
    most `WIDTH` and the slope times that scale. `lowest` has the largest lower bounds so far.
    """
    width = np.float32(WIDTH * (1 + 1e-5))
    for row in range(products.shape[0]):
        slope, bounds, count = slopes[row], lowest[row], counts[row]
        weakest = np.argmin(bounds)
        for at in range(0, products.shape[1], RUN):
            line, steps = products[row, at : at + RUN], scales[at : at + RUN]
            level = bounds[weakest] - width
            # A count as wide as the products, so that as many are compared at once.
            some = np.int32(0)
            for x in range(line.shape[0]):
                upper = (np.float32(line[x]) + slope) * steps[x]
                some = np.int32(some + np.int32(upper >= level))
            if some == 0:
                continue
            for x in range(line.shape[0]):
                upper = (np.float32(line[x]) + slope) * steps[x] + width
                if upper < bounds[weakest]:
                    continue
                lower = (np.float32(line[x]) - slope) * steps[x] - width
                if lower > bounds[weakest]:
                    bounds[weakest] = lower
                    weakest = np.argmin(bounds)
                if count == picks.shape[1]:
                    count = compact(picks[row], uppers[row], count, bounds[weakest])
                if count < picks.shape[1]:
                    picks[row, count] = low + at + x
                    uppers[row, count] = upper
                    count += 1
                else:
                    count = picks.shape[1] + 1
                    break
            if count > picks.shape[1]:
                break
        counts[row] = count


@kernel
def weed_out(
    first: int,
    last: int,
    lowest: Float32[np.ndarray, "targets count"],
    picks: Int64[np.ndarray, "targets capacity"],
    uppers: Float32[np.ndarray, "targets capacity"],
    counts: Int64[np.ndarray, "targets"],
) -> None:
    """Drops the candidates of targets `first` to `last` that lower bounds have passed since; the
    count of a target that had too many becomes -1."""
    for row in range(first, last):
        if counts[row] > picks.shape[1]:
            counts[row] = -1
        else:
            counts[row] = compact(picks[row], uppers[row], counts[row], lowest[row].min())
