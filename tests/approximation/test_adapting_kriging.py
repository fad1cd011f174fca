"""Kriging lets anchors say what goes into a row: its shares, and tokens that are spelled alike."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from approximation_world import random_base
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.feature_extraction.text import TfidfVectorizer

from mergekit_omp.approximation import CodingInputs, MissingRows, Part, Texts, reading, spelling
from mergekit_omp.approximation.fit import PREDICTED_ERROR
from mergekit_omp.approximation.kriging import Kriging
from mergekit_omp.approximation.ridge import fit_ridge
from mergekit_omp.approximation.shares import FEWEST, PULL, choose_shares, fit_shares, products
from mergekit_omp.approximation.spelling import LENGTHS, Spellings

WORDS = [b" river", b"River", b" rivers", b"iver", b" lake", b"lakes", b" x", b"\xff\xfe", b" "]


def grams_of(word: str) -> list[str]:
    bare = word.strip().lower()
    marked = f"<{bare}>"
    found = [marked[i : i + n] for n in LENGTHS for i in range(len(marked) - n + 1)]
    return [*found, "word:" + bare, "word:" + bare, "bytes:" + word]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("common", [2, 100])
def test_words_spelled_alike_are_those_of_scikit_learns_tf_idf(
    common: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(spelling, "obstacle", lambda: "no compiler")
    monkeypatch.setattr(spelling, "COMMON", common)
    times = Counter(gram for word in WORDS for gram in grams_of(word.decode("latin1")))
    rare = sorted(gram for gram in times if times[gram] <= common)
    assert (len(rare) < len(times)) == (common == 2)
    oracle = TfidfVectorizer(analyzer=grams_of, sublinear_tf=True, vocabulary=rare, lowercase=False)
    among = oracle.fit_transform([word.decode("latin1") for word in WORDS])
    asked = [b"rivers", b" Lake", b"zzz"]
    expected = (oracle.transform([w.decode("latin1") for w in asked]) @ among.T).toarray()
    cosines, whose = Spellings(WORDS).nearest(asked, 3)
    for row, (found, places) in enumerate(zip(cosines.numpy(), whose.numpy(), strict=True)):
        np.testing.assert_allclose(found, np.sort(expected[row])[::-1][:3], atol=1e-6)
        np.testing.assert_allclose(found[found > 0], expected[row][places[found > 0]], atol=1e-6)


def test_a_word_among_the_others_is_not_its_own_neighbour() -> None:
    spellings = Spellings(WORDS)
    _, plain = spellings.nearest(WORDS[:2], 3)
    cosines, whose = spellings.nearest(WORDS[:2], 3, torch.tensor([0, 1]))
    assert plain[:, 0].tolist() == [0, 1]
    assert whose[0, 0] == 1 and whose[1, 0] == 0
    assert (cosines[whose == torch.tensor([[0], [1]])] == 0).all()


@pytest.mark.parametrize("compiled", [True, False])
def test_words_whose_n_grams_are_all_common_are_like_none(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(spelling, "obstacle", lambda: "no compiler")
    cosines, whose = Spellings([b"same"] * 60).nearest([b"same", b"else"], 3)
    assert (cosines == 0).all() and (whose < 60).all()


def test_leverages_tell_what_is_left_without_a_row() -> None:
    draw = torch.Generator().manual_seed(3)
    x, y = (torch.randn(40, n, generator=draw, dtype=torch.float64) for n in (6, 3))
    checked = torch.tensor([4, 17])
    fit = fit_ridge(lambda: iter([(x, y)]), 6, 3, device=x.device, ridge=0.5, checked=x[checked])
    penalty = 0.5 * x.square().sum() / 6 * torch.eye(6, dtype=torch.float64)
    for i, leverage in zip(checked.tolist(), fit.leverages.tolist(), strict=True):
        others = torch.arange(40) != i
        without = torch.linalg.solve(x[others].T @ x[others] + penalty, x[others].T @ y[others])
        # That of the intercept, which centring takes out of the inputs, is counted apart.
        left = (y[i] - x[i] @ fit.coefficients) / (1 - (leverage - 1 / 40))
        torch.testing.assert_close(left, y[i] - x[i] @ without)


def test_further_estimates_take_part_only_where_they_are_worth_it() -> None:
    draw = torch.Generator().manual_seed(5)
    trend, noise, more = (torch.randn(200, 8, generator=draw) for _ in range(3))
    use = torch.ones(200).double()
    nothing = choose_shares([trend], [more], 0.7 * trend + noise, use)
    assert nothing.values == (1, 0)
    much = choose_shares([trend], [more], trend + 0.1 * noise + more, use)
    assert much.values[1] > 0.5
    assert much.change < 0.5 < nothing.change


@given(st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_shares_minimise_the_error_by_use_with_its_pull(seed: int) -> None:
    draw = np.random.default_rng(seed)
    estimates = torch.from_numpy(draw.normal(size=(3, 40, 5)))
    true = torch.from_numpy(draw.normal(size=(40, 5))) + estimates[0] - 0.4 * estimates[1]
    use, start = torch.from_numpy(draw.uniform(0.1, 1, 40)), np.array([1.0, 1.0, 0.0])

    def error(shares: np.ndarray) -> float:
        sums = np.tensordot(shares, estimates.numpy(), 1)
        return float((use.numpy()[:, None] * (sums - true.numpy()) ** 2).sum())

    def penalised(shares: np.ndarray) -> float:
        return error(shares) + PULL * error(start) * float(((shares - start) ** 2).sum())

    found = np.array(fit_shares(products([*estimates, true], use), start.tolist()))
    best = minimize(penalised, start, bounds=[(0, None)] * 3, tol=1e-10)
    assert (found >= 0).all()
    assert penalised(found) <= best.fun * (1 + 1e-6)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_shares_stay_where_there_is_no_error_but_rounding(kind: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    true, noise, more = torch.randn(3, 400, 64, generator=draw, dtype=kind)
    trend = true + noise if kind == torch.float32 else 0.3 * true
    usual = [trend, true - trend]
    for further in (true + 1e-9 * noise, more, torch.zeros_like(true)):
        shares = choose_shares(usual, [further, true], true, torch.ones(400, dtype=torch.float64))
        assert shares.values == (1, 1, 0, 0)
        assert shares.change == 1


def test_shares_stay_where_nothing_is_known() -> None:
    nothing = torch.zeros(30, 4)
    alone = [1.0, 1.0, 0.0, 0.0]
    shares = fit_shares(products([*[nothing] * 4, torch.ones(30, 4)]), alone)
    assert shares == pytest.approx(alone)


def spelled_world(stems: int, seed: int = 0) -> tuple[MissingRows, torch.Tensor]:
    """Words in three shapes whose rows tell the stem; the donor's rows tell nothing."""
    draw = np.random.default_rng(seed)
    letters = [bytes([c]) for c in range(256)]
    roots = {bytes(draw.integers(97, 123, 7).astype(np.uint8)) for _ in range(stems)}
    shapes = [shape for root in sorted(roots) for shape in (root, b" " + root, root.title())]
    content = [*letters, *shapes]
    of_stem = random_base(len(roots), 8, seed=seed).repeat_interleave(3, 0)
    rows = torch.cat([random_base(256, 8, seed=1), of_stem])
    rows = rows + 0.1 * random_base(len(rows), 8, seed=2)
    missing = np.arange(256, len(content), 6)
    gone = {content[i] for i in missing}
    base = [None if text in gone else text for text in content]
    donor = random_base(len(content), 6, seed=3)

    def segment(known: Sequence[bytes | None], words: Sequence[bytes]) -> list[list[int]]:
        own = {text: i for i, text in enumerate(known) if text is not None}
        return [[own[w]] if w in own else [own[bytes([c])] for c in w] for w in words]

    shared = torch.tensor([i for i, text in enumerate(base) if text is not None])
    inputs = CodingInputs(
        missing=len(missing),
        anchor_rows=shared,
        targets=donor[missing],
        anchors=donor[shared],
        donor=donor,
        texts=Texts(
            missing=[content[i] for i in missing],
            base=base,
            donor=content,
            segment_in_base=lambda words: segment(base, words),
            segment_in_donor=lambda words: segment(content, words),
        ),
    )
    return MissingRows(part=Part.INPUT, base=rows, inputs=inputs), rows[missing]


def test_anchors_find_out_that_spelling_tells_the_rows() -> None:
    problem, true = spelled_world(stems=150)
    assert len(problem.inputs.anchor_rows) >= FEWEST
    plain, adapted = (
        float((Kriging(adapt=adapt).rows(problem) - true).square().sum() / true.square().sum())
        for adapt in (False, True)
    )
    assert adapted < 0.5 * plain
    torch.testing.assert_close(Kriging().rows(problem), Kriging().rows(problem), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_compiled_loops_do_what_torch_does(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the anchors have rows of zeros or none in the donor's other matrix."""
    problem, _ = spelled_world(stems=150)
    inputs = problem.inputs
    assert inputs.donor is not None and inputs.targets is not None and inputs.anchors is not None
    other = random_base(len(inputs.donor), 5, seed=9)
    other[: len(other) // 2] = other[:1]
    other[3] = torch.nan
    inputs = dataclasses.replace(
        inputs,
        donor=inputs.donor.to(dtype),
        target_ids=torch.arange(256, len(inputs.donor), 6),
        anchor_ids=inputs.anchor_rows,
        other_matrix=other.to(dtype),
    )
    problem = dataclasses.replace(problem, base=problem.base.to(dtype), inputs=inputs)
    rows = Kriging().rows(problem)
    errors = inputs.row_fit[PREDICTED_ERROR.key]
    monkeypatch.setattr(reading, "obstacle", lambda: "no compiler")
    torch.testing.assert_close(rows, Kriging().rows(problem), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(errors, inputs.row_fit[PREDICTED_ERROR.key], rtol=1e-4, atol=1e-6)


def test_without_the_donors_whole_matrix_anchors_are_all_that_there_is() -> None:
    problem, true = spelled_world(stems=150)
    inputs = dataclasses.replace(problem.inputs, donor=None)
    rows = Kriging().rows(dataclasses.replace(problem, inputs=inputs))
    assert (rows - true).square().sum() < 0.5 * true.square().sum()


def test_what_adapting_wins_is_in_the_predicted_error() -> None:
    told = []
    for adapt in (False, True):
        problem, _ = spelled_world(stems=150)
        Kriging(adapt=adapt).rows(problem)
        told.append(float(problem.inputs.row_fit[PREDICTED_ERROR.key].mean()))
    # Half of the anchors are single bytes, of which nothing can be known.
    assert told[1] < 0.9 * told[0]


def test_with_few_anchors_it_is_what_it_is_without() -> None:
    problem, _ = spelled_world(stems=20)
    assert len(problem.inputs.anchor_rows) < FEWEST
    rows = Kriging(adapt=False).rows(problem)
    torch.testing.assert_close(rows, Kriging().rows(problem), rtol=0, atol=0)
