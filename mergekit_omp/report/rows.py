"""Measures of rows: their norms, and the outliers among them.

Outliers are rows that are ordinary in the donor and large in the output. A donor can be made so
that one of its tokens does nothing there and much in the model that takes over its tokenizer: its
row looks like any other, but is written as a combination of anchors that cancels in the donor's
space and adds up in the model's. Large rows that the donor's own row does not account for are
therefore worth a look, whatever made them so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

_BLOCK = 8192
_LARGE_QUANTILE, _LARGE_TIMES = 0.999, 1.5
_INERT_QUANTILE = 0.9
_TINY = np.finfo(np.float64).tiny


def row_norms(
    matrix: Float[Tensor, "rows dim"],
    ids: Int[np.ndarray, "some"] | None = None,
    middle: Float64[Tensor, "dim"] | None = None,
) -> Float64[np.ndarray, "some"]:
    """Euclidean norms of rows (all, or `ids`), or of their offsets from `middle`."""
    chosen = torch.arange(len(matrix)) if ids is None else torch.from_numpy(ids)
    found = np.empty(len(chosen))
    for start in range(0, len(chosen), _BLOCK):
        rows = matrix[chosen[start : start + _BLOCK]].double()
        if middle is not None:
            rows -= middle
        found[start : start + len(rows)] = rows.norm(dim=1).numpy()
    return found


@dataclass(frozen=True, eq=False)
class Distances:
    """Distances from the mean row, of approximated tokens and of what they are compared with."""

    out: Float[np.ndarray, "tokens"]
    """Distances of the output's rows from the mean of the model's own rows."""
    base: Float[np.ndarray, "base_rows"]
    """Distances of the model's own rows from their mean."""
    donor: Float[np.ndarray, "tokens"]
    """Distances of the donor's rows of these tokens from the donor's mean row."""
    donor_anchors: Float[np.ndarray, "anchors"]
    """Distances of the donor's rows of shared tokens from the donor's mean row."""

    @property
    def out_times(self) -> Float[np.ndarray, "tokens"]:
        """Output's distances, as multiples of what 99.9% of the model's own rows stay below."""
        times: np.ndarray = self.out / max(_quantile(self.base, _LARGE_QUANTILE), _TINY)
        return times

    @property
    def donor_share(self) -> Float[np.ndarray, "tokens"]:
        """Which share of the donor's shared tokens lies nearer to its mean row."""
        ordered = np.sort(self.donor_anchors[np.isfinite(self.donor_anchors)])
        share: np.ndarray = np.searchsorted(ordered, self.donor) / max(len(ordered), 1)
        return share

    @property
    def suspicious(self) -> Bool[np.ndarray, "tokens"]:
        """Larger than the model's own largest rows by half, and ordinary in the donor."""
        found: np.ndarray = (self.out_times > _LARGE_TIMES) & (self.donor_share < _INERT_QUANTILE)
        return found


def _quantile(values: Float[np.ndarray, "values"], q: float) -> float:
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, q)) if len(finite) else 0.0
