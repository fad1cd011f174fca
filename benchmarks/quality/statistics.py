"""Bits per byte and recovery with bootstrap confidence intervals, and rank correlations.

Documents are drawn with replacement within each kind of text, all methods on the same draws, so
that differences between methods are paired. Efron & Tibshirani 1993, percentile intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Float

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A number and the bounds of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """One method on one pair: bits per byte, what it wins, and how it compares."""

    bits_per_byte: Estimate
    recovery: Estimate
    """Bits per byte won over zero rows."""
    over_paper: Estimate
    """Bits per byte won over the paper's settings."""
    ratio: Estimate
    """Recovery over that of the paper's settings; not a number where those win nothing."""


def resampled(kinds: Sequence[str]) -> Float[np.ndarray, "draws documents"]:
    """How often each document is in each draw; the first row, once each, is the sample itself."""
    draw = np.random.default_rng(0)
    counts = np.zeros((RESAMPLES + 1, len(kinds)))
    counts[0] = 1
    for kind in sorted(set(kinds)):
        where = np.flatnonzero(np.array(kinds) == kind)
        drawn = draw.choice(where, (RESAMPLES, len(where)))
        for row, chosen in enumerate(drawn, 1):
            np.add.at(counts[row], chosen, 1)
    return counts


def compare(
    bits: Mapping[str, Sequence[float]],
    sizes: Sequence[int],
    kinds: Sequence[str],
    zero: str,
    paper: str,
) -> dict[str, Compared]:
    """Every method of `bits` (its bits of each document) beside zero rows and the paper's."""
    counts = resampled(kinds)
    total = counts @ np.array(sizes, dtype=float)
    rates = {label: counts @ np.array(values) / total for label, values in bits.items()}
    won = rates[zero] - rates[paper]
    won = np.where(won[0] > 0, won, np.nan)
    return {
        label: Compared(
            bits_per_byte=_estimate(rate),
            recovery=_estimate(rates[zero] - rate),
            over_paper=_estimate(rates[paper] - rate),
            ratio=_estimate((rates[zero] - rate) / won),
        )
        for label, rate in rates.items()
    }


def _estimate(draws: Float[np.ndarray, " draws"]) -> Estimate:
    low, high = np.quantile(draws[1:], (0.025, 0.975))
    return Estimate(float(draws[0]), float(low), float(high))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's; not a number where one of the two is constant."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return float("nan")
    return float(scipy.stats.spearmanr(first, second).statistic)
