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
    """Relative; None where the method codes nothing in anchors."""
    norm: float
    """Of the output's row."""
    anchors: tuple[Anchor, ...] = ()
    """The heaviest, heaviest first."""


@dataclass(frozen=True)
class Outlier:
    """A row that is ordinary in the donor and large in the output."""

    token: TokenFacts
    out_times: float
    """Its distance from the mean row over that of 99.9% of the model's own rows."""
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
    """Of the record."""
    norms: dict[str, Float[np.ndarray, "some"]]
    """Row norms by what the rows are, for a histogram."""
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
        """Whether rows are rows, and not single numbers (a head's bias)."""
        return self.entry["part"] != "head_bias"


@dataclass(frozen=True, eq=False)
class Report:
    """All of it."""

    name: str
    record: dict[str, Any]
    config: str | None
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()
    """What is not in this report, and why."""
    compared: bool = field(default=False)


def quantiles(values: Float[np.ndarray, "values"]) -> dict[str, float] | None:
    """Median, 95th percentile and largest; None of nothing."""
    if not len(values):
        return None
    return {
        "median": float(np.median(values)),
        "p95": float(np.quantile(values, 0.95)),
        "max": float(values.max()),
    }


def evenly(ids: Int[np.ndarray, "ids"], count: int) -> Int[np.ndarray, "some"]:
    """At most `count` of the ids, evenly through them: the same ones always."""
    if len(ids) <= count:
        return ids
    return ids[np.linspace(0, len(ids) - 1, count).astype(np.int64)]
