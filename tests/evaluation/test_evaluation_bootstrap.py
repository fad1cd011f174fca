"""Intervals against scipy's bootstrap and against what is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mergekit_omp.evaluation.bootstrap import interval, ratios, resamples


@pytest.fixture(scope="module")
def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    sizes = generator.integers(50, 500, 80)
    hard = generator.normal(2.0, 0.5, 80)
    return sizes, sizes * hard, sizes * (hard + generator.normal(0.05, 0.02, 80))


def test_agrees_with_scipy(sample: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    sizes, bits, _ = sample
    theirs = stats.bootstrap(
        (bits, sizes),
        lambda b, s, axis: b.sum(axis) / s.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = interval(ratios(resamples(80), bits, sizes))
    width = theirs.high - theirs.low
    assert found == pytest.approx((theirs.low, theirs.high), abs=0.08 * width)


def test_a_paired_difference_is_clear_where_the_intervals_overlap(
    sample: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    sizes, first, second = sample
    draws = resamples(80)
    one, other = ratios(draws, first, sizes), ratios(draws, second, sizes)
    assert interval(one)[1] > interval(other)[0], "each alone does not tell"
    low, high = interval(other - one)
    assert 0 < low < 0.05 < high < 0.1


def test_every_resample_has_as_many_documents_and_repeats_itself() -> None:
    draws = np.concatenate(resamples(7))
    assert (draws.sum(axis=1) == 7).all()
    assert np.array_equal(draws, np.concatenate(resamples(7)))
    assert draws.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)


def test_no_interval_where_resamples_are_mostly_empty() -> None:
    sizes = np.zeros(400, dtype=np.int64)
    assert interval(ratios(resamples(400), np.zeros(400), sizes)) is None
