"""Which anchors may be among the nearest, from products of 8-bit integers.

The rounding is that of a pursuit's screening, whose error bound holds whatever the data
(docs/pursuit-bounds.md): every anchor that may be one of the nearest is a candidate, for whoever
asks to decide exactly. Worth it where a processor multiplies 8-bit integers faster than floats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float32, Int8, Int64
from torch import Tensor

from mergekit_omp.approximation.chunks import strips
from mergekit_omp.pursuit.candidates import CAPACITY, Coarse, screen
from mergekit_omp.pursuit.rounding import rounded
from mergekit_omp.pursuit.ways import Way, obstacle


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

    @cached_property
    def _coarse(self) -> Coarse:
        return Coarse.of(self.scales, torch.ones_like(self.scales))

    def candidates(
        self,
        targets: Float[Tensor, "targets dim"],
        count: int,
        least: Float[Tensor, "targets"] | None = None,
    ) -> tuple[Int64[Tensor, "candidates"], Int64[Tensor, "targets"]]:
        """The anchors that may be the `count` nearest of each target by cosine, one target's after
        another's, and how many each has; -1: more than there is room for, of which none is told.

        Targets have length 1, or are zero. Anchors whose cosine is below `least` are not wanted.
        """
        integers, scales = rounded(targets, seed=len(self.scales))
        kept = screen(integers, scales.float(), self.integers, self._coarse, count, least=least)
        sizes = torch.from_numpy(kept.counts)
        sizes[sizes > CAPACITY] = -1
        held = torch.arange(CAPACITY) < sizes[:, None]
        return torch.from_numpy(kept.picks)[held], sizes
