"""What a report says, apart from how it looks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

from mergekit_omp.report.held_out import HeldOut


@dataclass(frozen=True)
class Anchor:
    """A token that another is a combination of, and its weight."""

    text: str
    weight: float


@dataclass(frozen=True)
class TokenFacts:
    """One approximated token of the output."""

    id: int
    text: str
    residual: float | None
    """Norm of the residual over that of the donor's row; None where the method has no residuals."""
    norm: float
    """Norm of its row in the output."""
    anchors: tuple[Anchor, ...] = ()
    """Those of the largest weights, the largest first."""


@dataclass(frozen=True)
class Outlier:
    """A row that is ordinary in the donor and large in the output."""

    token: TokenFacts
    out_times: float
    """Its distance from the mean row, over the 99.9% quantile of such distances in the model."""
    donor_share: float
    """The share of the donor's rows that lie nearer to the donor's mean row."""


@dataclass(frozen=True, eq=False)
class RowMap:
    """Rows in the plane that the first two principal components of copied rows span."""

    copied: Float64[np.ndarray, "copied 2"]
    approximated: Float64[np.ndarray, "approximated 2"]
    explained: float
    """The share of the copied rows' variance that the plane shows."""


@dataclass(frozen=True, eq=False)
class Section:
    """One vocabulary tensor of one model."""

    model: str
    entry: dict[str, Any]
    """What the record says of the tensor."""
    norms: dict[str, Float[np.ndarray, "some"]]
    """Norms of rows, by what became of the rows, for a histogram."""
    residuals: Float[np.ndarray, "approximated"]
    row_map: RowMap | None
    worst: tuple[TokenFacts, ...]
    largest: tuple[TokenFacts, ...]
    outliers: tuple[Outlier, ...] | None
    """None where there was nothing to compare."""
    held_out: HeldOut | None
    notes: tuple[str, ...] = ()

    @property
    def is_matrix(self) -> bool:
        """Whether a token has a whole row, and not one number as in a head's bias."""
        return self.entry["part"] != "head_bias"


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that a report says."""

    name: str
    record: dict[str, Any]
    config: str | None
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()
    """What is not in this report, and why."""
    compared: bool = field(default=False)


def quantiles(values: Float[np.ndarray, "values"]) -> dict[str, float] | None:
    """Median, 95th percentile and largest of some numbers; None where there are none."""
    if not len(values):
        return None
    return {
        "median": float(np.median(values)),
        "p95": float(np.quantile(values, 0.95)),
        "max": float(values.max()),
    }


def evenly(ids: Int[np.ndarray, "ids"], count: int) -> Int[np.ndarray, "some"]:
    """At most `count` of the ids, at even distances, so that it is always the same ones."""
    if len(ids) <= count:
        return ids
    return ids[np.linspace(0, len(ids) - 1, count).astype(np.int64)]
