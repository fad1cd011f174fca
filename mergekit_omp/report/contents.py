"""What a report says, apart from how it looks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from mergekit_omp.approximation import APPROXIMATIONS
from mergekit_omp.approximation.fit import Fit, Parts
from mergekit_omp.report.held_out import HeldOut


@dataclass(frozen=True)
class Weighed:
    """A token of whose row another row is made, and its weight."""

    text: str
    weight: float


@dataclass(frozen=True)
class TokenFacts:
    """One approximated token of the output."""

    id: int
    text: str
    fit: float | None
    """The method's figure of fit; None where it has none for the token."""
    norm: float
    """Norm of its row in the output."""
    parts: tuple[Weighed, ...] = ()
    """What its row is made of: tokens of the largest weights, the largest first."""


@dataclass(frozen=True)
class Outlier:
    """A row that is ordinary in the donor and large in the output."""

    token: TokenFacts
    out_times: float
    """Its distance from the mean row, over the 99.9% quantile of such distances in the model."""
    donor_share: float
    """The share of the donor's rows that lie nearer to the donor's mean row."""


@dataclass(frozen=True, eq=False)
class Section:
    """One vocabulary tensor of one model."""

    model: str
    entry: dict[str, Any]
    """What the record says of the tensor."""
    norms: dict[str, Float[np.ndarray, "some"]]
    """Norms of rows, by what became of the rows, for a histogram."""
    fits: Float[np.ndarray, "approximated"]
    """The method's figure of fit of each approximated row, where it has one."""
    worst: tuple[TokenFacts, ...]
    """Of the worst fit, the worst first."""
    largest: tuple[TokenFacts, ...]
    outliers: tuple[Outlier, ...] | None
    """None where there was nothing to compare."""
    held_out: HeldOut | None
    notes: tuple[str, ...] = ()

    @property
    def fit(self) -> Fit | None:
        """The figure of fit of the method."""
        return APPROXIMATIONS[self.entry["method"]].fit

    @property
    def parts(self) -> Parts | None:
        """What the method's rows are made of."""
        return APPROXIMATIONS[self.entry["method"]].parts

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
    tied: bool = False
    """Whether the output has one matrix for input and head."""


def quantiles(values: Float[np.ndarray, "values"]) -> dict[str, float] | None:
    """5th percentile, median, 95th percentile and largest of some numbers; None without any."""
    if not len(values):
        return None
    return {
        "p05": float(np.quantile(values, 0.05)),
        "median": float(np.median(values)),
        "p95": float(np.quantile(values, 0.95)),
        "max": float(values.max()),
    }
