"""Interpolation between the anchors that are nearest to a token in the donor's space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mergekit_omp.approximation.chunks import chunks, strips
from mergekit_omp.approximation.coarse_neighbours import CoarseAnchors
from mergekit_omp.approximation.donor_features import DonorFeatures
from mergekit_omp.approximation.features import FeatureBlock, anchor_features
from mergekit_omp.approximation.local_weights import anchors_reader, local_weights
from mergekit_omp.approximation.neighbours import (
    coarse_anchors,
    nearest_anchors,
    ordinary_kriging,
    units,
    without_themselves,
)
from mergekit_omp.approximation.shared import Shared

LENGTH = 1.0
"""Length scale of the residuals' correlation on the unit sphere: exp(-1) at a cosine of 0."""
NOISE = 0.3
"""Variance of a residual that its neighbours do not share, relative to that which they share."""


@dataclass(frozen=True, eq=False)
class NearestAnchors:
    """The anchors that are nearest to some tokens, by cosine in `blocks`."""

    blocks: Sequence[FeatureBlock]
    cosines: Float[Tensor, "tokens count"]
    whose: Int64[Tensor, "tokens count"]
    """Indices of anchors."""
    of_whom: str
    """What progress bars say that they are neighbours of."""

    @classmethod
    def of(
        cls,
        blocks: Sequence[FeatureBlock],
        count: int,
        dtype: torch.dtype,
        *,
        coarse: CoarseAnchors | None,
        progress: bool = False,
        themselves: Int64[Tensor, "tokens"] | None = None,
    ) -> NearestAnchors:
        """Of the tokens that are missing in `blocks`; `coarse` as of `coarse_anchors`.

        None is its own neighbour: `themselves` are their indices where they are anchors.
        """
        count = min(count, len(blocks[0].anchors) - (themselves is not None))
        of_whom = "" if themselves is None else " of anchors"
        if not count:
            whose = torch.empty((len(blocks[0].missing), 0), dtype=torch.int64)
            whose = whose.to(blocks[0].mean.device)
            return cls(blocks, whose.to(dtype), whose, of_whom)
        found = nearest_anchors(
            blocks,
            count + (themselves is not None),
            dtype,
            coarse=coarse,
            progress=progress,
            label=f"Nearest anchors{of_whom}",
        )
        cosines, whose = found if themselves is None else without_themselves(*found, themselves)
        return cls(blocks, cosines, whose, of_whom)

    @property
    def count(self) -> int:
        return self.whose.shape[1]

    def weights(self, *, progress: bool = False) -> Iterator[tuple[slice, Weights]]:
        """Of all tokens, so many at a time as fit in memory; of none where there are no
        neighbours."""
        count, dtype = self.count, self.cosines.dtype
        if not count:
            return
        width = sum(block.dim for block in self.blocks)
        bytes_each = dtype.itemsize * (2 * count * width + 3 * count**2)
        of_chunk, label = 8 * dtype.itemsize * width, f"Interpolation{self.of_whom}"
        compiled = all(block.readable(dtype) for block in self.blocks)
        for part in chunks(len(self.whose), of_chunk, progress=progress, label=label):
            near, toward = self.whose[part], self.cosines[part]
            if compiled:
                noise = toward.new_tensor(NOISE).expand_as(toward)
                read = anchors_reader(self.blocks, near, dtype)
                yield part, Weights(near, *local_weights(read, toward, width, LENGTH, noise))
                continue
            weights, variances = torch.empty_like(toward), toward.new_empty(len(toward))
            mixed = toward.new_empty((len(toward), width))
            for some in strips(len(near), bytes_each):
                features = anchor_features(self.blocks, near[some].flatten(), dtype)
                features = features.reshape(-1, count, width)
                weights[some], variances[some] = ordinary_kriging(
                    toward[some], units(features), LENGTH, NOISE
                )
                mixed[some] = (weights[some, None] @ features)[:, 0]
            yield part, Weights(near, weights, variances, mixed)


@dataclass(frozen=True, eq=False)
class AnchorSearch:
    """Searches for nearest anchors, of which each is made once for all tensors that share it."""

    donor: DonorFeatures
    count: int
    """How many are wanted."""
    dtype: torch.dtype
    shared: Shared
    progress: bool = False

    def of_missing(self) -> NearestAnchors:
        return self._near(self.donor.blocks, None)

    def of_anchors(self, which: Int64[Tensor, "checked"]) -> NearestAnchors:
        """Those of some anchors but themselves."""
        return self._near([block.anchors_as_missing(which) for block in self.donor.blocks], which)

    def _near(
        self, blocks: Sequence[FeatureBlock], themselves: Int64[Tensor, "tokens"] | None
    ) -> NearestAnchors:
        def found() -> tuple[Tensor, Tensor, str]:
            near = NearestAnchors.of(
                blocks,
                self.count,
                self.dtype,
                coarse=self._coarse if self.count else None,
                progress=self.progress,
                themselves=themselves,
            )
            return near.cosines, near.whose, near.of_whom

        given = [*self.donor.identity, *([] if themselves is None else [themselves])]
        name = f"{self.count} nearest, {themselves is not None}, {self.dtype}"
        return NearestAnchors(blocks, *self.shared.of(name, given, found))

    @cached_property
    def _coarse(self) -> CoarseAnchors | None:
        return coarse_anchors(self.donor.blocks, self.dtype, progress=self.progress)


@dataclass(frozen=True, eq=False)
class Weights:
    """What some tokens take from the anchors that are nearest to them."""

    whose: Int64[Tensor, "tokens count"]
    """Indices of anchors."""
    weights: Float[Tensor, "tokens count"]
    variances: Float[Tensor, "tokens"]
    """Of what the interpolation leaves, relative to that of a residual."""
    features: Float[Tensor, "tokens features"]
    """The weighted sums of the anchors' features."""
