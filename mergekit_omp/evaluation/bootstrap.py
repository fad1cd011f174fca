"""Intervals by bootstrap over documents (Efron & Tibshirani 1993, chapters 13 and 16).

Documents are resampled whole, since the tokens of one depend on each other; models are compared
on the same resamples, since what is hard for one is hard for the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 0
_DOCUMENTS_AT_ONCE = 1 << 22


def resamples(documents: int, *, seed: int = SEED, count: int = RESAMPLES) -> list[np.ndarray]:
    """How often each document is drawn in each resample, in blocks of (resamples, documents)."""
    generator = np.random.default_rng(seed)
    block = max(1, _DOCUMENTS_AT_ONCE // max(1, documents))
    shares = np.full(documents, 1 / documents)
    return [
        generator.multinomial(documents, shares, size=min(block, count - start)).astype(np.int32)
        for start in range(0, count, block)
    ]


def ratios(
    draws: Sequence[np.ndarray],
    amounts: Float64[np.ndarray, "documents"],
    sizes: Int64[np.ndarray, "documents"],
) -> Float64[np.ndarray, "resamples"]:
    """sum(amounts) / sum(sizes) of each resample; nan where a resample has no size."""
    found = []
    for block in draws:
        total = block @ sizes
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.where(total > 0, (block @ amounts) / total, np.nan))
    return np.concatenate(found)


def interval(values: Float64[np.ndarray, "resamples"]) -> tuple[float, float] | None:
    """The middle `CONFIDENCE` of the values, or None where they do not vary or are too few."""
    values = values[~np.isnan(values)]
    if len(values) < RESAMPLES // 2:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
