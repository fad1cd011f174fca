"""The regression of `kriging`, as a trend: what it says of a token, and what it leaves of anchors.

The residuals of the anchors are not kept, since they take as much memory as a large matrix: a
weighted sum of residuals is that of the rows less what the trend makes of that of the features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.features import (
    FeatureBlock,
    FeatureRows,
    anchor_features,
    missing_features,
)
from mergekit_omp.approximation.interpolation import Weights
from mergekit_omp.approximation.ridge import RidgeFit, fit_ridge


@dataclass(frozen=True, eq=False)
class Trend:
    """A regression from the features of tokens to their rows in the base, less the mean."""

    in_donor: Sequence[FeatureBlock]
    spelled: FeatureBlock
    rows: FeatureBlock
    """The base's rows of the anchors, with a length of 1."""
    fit: RidgeFit
    coefficients: Float[Tensor, "features base_dim"]
    """Those of `fit`, in the working dtype."""

    @classmethod
    def fitted(
        cls,
        in_donor: Sequence[FeatureBlock],
        spelled: FeatureBlock,
        base: Float[Tensor, "base_rows base_dim"],
        anchor_rows: Int64[Tensor, "anchors"],
        mean: Float64[Tensor, "base_dim"],
        ridge: float | None,
        dtype: torch.dtype,
        progress: bool,
        checked: Int64[Tensor, "checked"],
    ) -> Trend:
        """`checked` are anchors whose leverages `fit` shall have."""
        known, own = [*in_donor, spelled], FeatureRows(base, anchor_rows)
        rows = FeatureBlock(own, own, mean, 1.0)
        width, dim = sum(block.dim for block in known), base.shape[1]

        def training() -> Iterator[tuple[Tensor, Tensor]]:
            bytes_each = 2 * dtype.itemsize * (width + dim)
            for part in chunks(len(own), bytes_each, progress=progress, label="Regression"):
                yield anchor_features(known, part, dtype), anchor_features([rows], part, dtype)

        fit = fit_ridge(
            training,
            width,
            dim,
            device=base.device,
            ridge=ridge,
            checked=anchor_features(known, checked, dtype),
            progress=progress,
        )
        return cls(in_donor, spelled, rows, fit, fit.coefficients.to(dtype))

    @property
    def known(self) -> list[FeatureBlock]:
        return [*self.in_donor, self.spelled]

    def of_missing(
        self, part: slice, share: float = 1.0, near: Weights | None = None, of_near: float = 1.0
    ) -> Float[Tensor, "part base_dim"]:
        """A share of what the regression says of some of the missing tokens, and one of what their
        neighbours' residuals add, where their weights are given."""
        features = missing_features(self.known, part, self.coefficients.dtype).mul_(share)
        if near is None:
            return features @ self.coefficients
        rows = self.rows.mixed(near.whose, near.weights).mul_(of_near)
        # One product for both: what the regression makes of the neighbours goes the other way.
        features.sub_(self._mixed(near), alpha=of_near)
        return rows.addmm_(features, self.coefficients)

    def residuals(self, anchors: Int64[Tensor, "some"]) -> Float[Tensor, "some base_dim"]:
        """What it leaves of the rows of some anchors."""
        features = anchor_features(self.known, anchors, self.coefficients.dtype)
        rows = anchor_features([self.rows], anchors, self.coefficients.dtype)
        return rows - features @ self.coefficients

    def mixed_residuals(self, near: Weights) -> Float[Tensor, "tokens base_dim"]:
        """For each token the weighted sum of the residuals of its neighbours."""
        rows = self.rows.mixed(near.whose, near.weights)
        return rows - self._mixed(near) @ self.coefficients

    def _mixed(self, near: Weights) -> Float[Tensor, "tokens features"]:
        return torch.cat([near.features, self.spelled.mixed(near.whose, near.weights)], dim=1)
