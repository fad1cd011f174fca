"""Intervals and correlations against closed forms and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from benchmarks.quality.corpus import KINDS, read_texts
from benchmarks.quality.statistics import compare, rank_correlation, resampled
from mergekit_omp.demo.corpus import CorpusSpec


def test_draws_keep_the_number_of_documents_of_each_kind():
    kinds = ["prose"] * 7 + ["code"] * 3
    counts = resampled(kinds)
    assert (counts[0] == 1).all()
    assert (counts[:, :7].sum(1) == 7).all()
    assert (counts[:, 7:].sum(1) == 3).all()
    assert counts[1:].max() > 1


def test_intervals_agree_with_scipy():
    draw = np.random.default_rng(1)
    sizes = draw.integers(800, 1600, 60)
    zero = 2.6 * sizes + draw.normal(0, 200, 60)
    ours = zero - 0.2 * sizes + draw.normal(0, 60, 60)
    found = compare(
        {"zero": zero.tolist(), "paper": ours.tolist()},
        sizes.tolist(),
        ["prose"] * 60,
        "zero",
        "paper",
    )["paper"].recovery
    theirs = scipy.stats.bootstrap(
        (zero - ours, sizes),
        lambda won, size, axis: won.sum(axis) / size.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=2000,
        random_state=2,
    ).confidence_interval
    width = theirs.high - theirs.low
    assert found.value == pytest.approx((zero - ours).sum() / sizes.sum())
    assert found.low == pytest.approx(theirs.low, abs=0.1 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.1 * width)


def test_differences_are_paired():
    """A method that always wins the same has no spread, whatever that of the documents."""
    zero = np.array([1000.0, 9000.0, 400.0, 7000.0])
    found = compare(
        {"zero": zero.tolist(), "paper": (zero - 100).tolist(), "ours": (zero - 140).tolist()},
        [1000] * 4,
        ["prose"] * 4,
        "zero",
        "paper",
    )
    ours = found["ours"]
    assert (ours.over_paper.low, ours.over_paper.high) == pytest.approx((0.04, 0.04))
    assert (ours.ratio.value, ours.ratio.low, ours.ratio.high) == pytest.approx((1.4, 1.4, 1.4))
    assert ours.bits_per_byte.high > ours.bits_per_byte.low


def test_no_ratio_to_nothing():
    found = compare(
        {"zero": [10.0, 10.0], "paper": [11.0, 12.0]}, [5, 5], ["code"] * 2, "zero", "paper"
    )
    assert found["paper"].recovery.value < 0
    assert math.isnan(found["paper"].ratio.value)


def test_rank_correlation():
    assert rank_correlation([1.0, 2.0, 3.0], [10.0, 100.0, 1000.0]) == pytest.approx(1)
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)
    assert math.isnan(rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))


def test_texts_of_a_folder(tmp_path):
    for name in ("arithmetic", "arithmetic_heldout", "letters"):
        lines = (f"{name} {i}: {'word ' * 30}" for i in range(100))
        (tmp_path / f"{name}.txt").write_text("\n \n".join(lines))
    spec = CorpusSpec(keep_every=60, held_out_every=8)
    texts = read_texts(tmp_path, spec, held_out_bytes=1_000_000, document_characters=500)
    held_out = {kind: [d.text for d in texts.held_out if d.kind == kind] for kind in KINDS}
    few = read_texts(tmp_path, spec, held_out_bytes=3000, document_characters=500)
    assert set(few.held_out) < set(texts.held_out)
    assert 6000 < sum(len(document.text) for document in few.held_out) < 14000
    assert any("arithmetic_heldout" in text for text in held_out["arithmetic"])
    assert any("letters" in text for text in held_out["prose"])
    read = " ".join(text for kind in KINDS for text in texts.train[kind])
    assert "arithmetic 99:" in read and "arithmetic_heldout" not in read
    # The last twentieth of a file without a held-out one.
    assert "letters 90:" in read and "letters 99:" not in read
    halved = texts.mixed({"prose": 0.5})
    assert 0.4 < len(halved) / len(texts.train["prose"]) < 0.6
    assert set(halved) <= set(texts.train["prose"])
