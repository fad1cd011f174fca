"""Kriging: its regression, its interpolation and the pieces of its tokens, each on its own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from approximation_world import random_base, with_inputs, world
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.linear_model import Ridge

from mergekit_omp.approximation import CodingInputs, MissingRows, Part, Texts
from mergekit_omp.approximation.coarse_neighbours import CoarseAnchors
from mergekit_omp.approximation.features import (
    FeatureBlock,
    FeatureRows,
    anchor_features,
    missing_features,
)
from mergekit_omp.approximation.kriging import Kriging
from mergekit_omp.approximation.neighbours import nearest_by, ordinary_kriging, units
from mergekit_omp.approximation.pieces import pieces_of_missing, pieces_without_itself
from mergekit_omp.approximation.ridge import GRID, fit_ridge

DOUBLE = torch.float64
CPU = torch.device("cpu")
seeds = st.integers(0, 2**16)


def centred(rows: int, dim: int, seed: int) -> torch.Tensor:
    matrix = random_base(rows, dim, seed=seed, dtype=DOUBLE)
    return matrix - matrix.mean(0)


def noisy(rows: int, dim: int, outputs: int, noise: float, seed: int) -> tuple[torch.Tensor, ...]:
    x = centred(rows, dim, seed)
    y = x @ random_base(dim, outputs, seed=seed + 1, dtype=DOUBLE)
    y = y + noise * random_base(rows, outputs, seed=seed + 2, dtype=DOUBLE)
    return x, y - y.mean(0)


@pytest.mark.parametrize(("rows", "dim"), [(200, 16), (12, 40)], ids=["tall", "wide"])
@pytest.mark.parametrize("ridge", [1e-4, 0.3, 10.0])
def test_regression_is_that_of_scikit_learn(rows: int, dim: int, ridge: float) -> None:
    x, y = noisy(rows, dim, 5, 1.0, seed=3)
    halves = [(x[:7], y[:7]), (x[7:], y[7:])]
    fit = fit_ridge(lambda: iter(halves), dim, 5, device=CPU, ridge=ridge)
    penalty = ridge * float((x**2).sum()) / dim
    oracle = Ridge(alpha=penalty, fit_intercept=False, solver="svd").fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(fit.coefficients.T, oracle.coef_, rtol=1e-7, atol=1e-9)


def gcv(x: np.ndarray, y: np.ndarray, ridge: float) -> float:
    """Golub, Heath & Wahba's criterion with the hat matrix written out."""
    penalty = ridge * (x**2).sum() / x.shape[1]
    hat = x @ np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T) + 1 / len(x)
    left = y - hat @ y
    return float((left**2).sum() / (1 - np.trace(hat) / len(x)) ** 2)


@given(seeds, st.sampled_from([0.01, 1.0, 10.0, 100.0]))
@settings(max_examples=25, deadline=None)
def test_the_penalty_is_a_minimum_of_generalised_cross_validation(seed: int, noise: float) -> None:
    x, y = noisy(80, 12, 4, noise, seed)
    at = GRID.index(fit_ridge(lambda: iter([(x, y)]), 12, 4, device=CPU).ridge)
    errors = [gcv(x.numpy(), y.numpy(), ridge) for ridge in GRID]
    around = errors[max(at - 1, 0) : at + 2]
    assert errors[at] <= min(around) * (1 + 1e-9)
    assert errors[at] <= errors[GRID.index(1.0)] * (1 + 1e-9)


def test_more_noise_means_a_larger_penalty() -> None:
    def chosen(noise: float) -> float:
        x, y = noisy(80, 12, 4, noise, seed=1)
        return fit_ridge(lambda: iter([(x, y)]), 12, 4, device=CPU).ridge

    assert chosen(0.01) < chosen(3.0) < chosen(30.0)


@pytest.mark.parametrize(("length", "noise"), [(1.0, 0.3), (0.5, 0.01)])
def test_interpolation_is_a_gaussian_process_of_unknown_mean(length: float, noise: float) -> None:
    points = units(random_base(9, 6, seed=1, dtype=DOUBLE))
    targets = units(random_base(4, 6, seed=2, dtype=DOUBLE))
    values = 3 + random_base(9, 2, seed=3, dtype=DOUBLE)
    weights, variances = ordinary_kriging(
        targets @ points.T, points.expand(4, -1, -1), length, noise
    )
    # A constant of huge variance is a mean that is not known.
    kernel = ConstantKernel(1e7, "fixed") + RBF(length, "fixed")
    oracle = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None)
    oracle.fit(points.numpy(), values.numpy())
    torch.testing.assert_close(weights.sum(1), torch.ones(4, dtype=DOUBLE))
    expected, deviations = oracle.predict(targets.numpy(), return_std=True)
    np.testing.assert_allclose((weights @ values).numpy(), expected, rtol=1e-5, atol=1e-5)
    # The oracle's is of the field alone, and for each of the two values.
    of_a_token = (deviations[:, 0] ** 2 + noise) / (1 + noise)
    np.testing.assert_allclose(variances.numpy(), of_a_token, rtol=1e-5, atol=1e-5)


def test_without_noise_a_neighbour_in_the_same_place_has_all_the_weight() -> None:
    points = units(random_base(7, 5, seed=4, dtype=DOUBLE))
    weights, _ = ordinary_kriging(points @ points.T, points.expand(7, -1, -1), 0.7, 1e-9)
    torch.testing.assert_close(weights, torch.eye(7, dtype=DOUBLE), atol=1e-5, rtol=0)


def test_an_affine_map_of_the_donors_rows_is_found() -> None:
    problem = world(dtype=DOUBLE, donor_dim=6)
    inputs = problem.inputs
    assert inputs.anchors is not None and inputs.targets is not None
    affine, offset = random_base(6, 12, dtype=DOUBLE), random_base(1, 12, seed=2, dtype=DOUBLE)
    base = problem.base.clone()
    base[inputs.anchor_rows] = inputs.anchors @ affine + offset
    rows = Kriging(ridge=1e-9).rows(dataclasses.replace(problem, base=base))
    torch.testing.assert_close(rows, inputs.targets @ affine + offset, rtol=1e-3, atol=1e-3)


def test_without_neighbours_it_is_the_regression_alone() -> None:
    problem = world(dtype=DOUBLE)
    silent = texts([None] * len(problem.base), [None] * problem.inputs.missing)
    problem = with_inputs(problem, texts=silent)
    inputs = problem.inputs
    middle = inputs.anchors.mean(0)
    offsets = (inputs.anchors - middle).numpy()
    # The features of pieces are counted, and zero here.
    penalty = 0.5 * float((offsets**2).sum()) / (offsets.shape[1] + problem.base.shape[1])
    oracle = Ridge(alpha=penalty, solver="svd").fit(offsets, problem.base[inputs.anchor_rows])
    rows = Kriging(neighbors=0, ridge=0.5).rows(problem)
    expected = oracle.predict((inputs.targets - middle).numpy())
    np.testing.assert_allclose(rows, expected, rtol=1e-6, atol=1e-8)
    assert not torch.allclose(Kriging(ridge=0.5).rows(problem), rows, rtol=1e-2)


@given(seeds)
@settings(max_examples=8, deadline=None)
def test_turning_the_donors_space_changes_nothing(seed: int) -> None:
    problem = with_other_matrix(world(seed=seed, dtype=DOUBLE))
    inputs = problem.inputs
    turns = [
        torch.linalg.qr(random_base(n, n, seed=seed + n, dtype=DOUBLE)).Q
        for n in (inputs.anchors.shape[1], inputs.other_anchors.shape[1])
    ]
    turned = with_inputs(
        problem,
        targets=inputs.targets @ turns[0],
        anchors=inputs.anchors @ turns[0],
        other_targets=inputs.other_targets @ turns[1] * 5,
        other_anchors=inputs.other_anchors @ turns[1] * 5,
    )
    rows = Kriging().rows(problem)
    torch.testing.assert_close(Kriging().rows(turned), rows, rtol=1e-6, atol=1e-7)


@given(seeds, st.sampled_from(list(Part)))
@settings(max_examples=8, deadline=None)
def test_turning_and_moving_the_base_does_so_to_the_rows(seed: int, part: Part) -> None:
    problem = world(seed=seed, dtype=DOUBLE, part=part)
    turn = torch.linalg.qr(random_base(12, 12, seed=seed, dtype=DOUBLE)).Q
    moved = dataclasses.replace(problem, base=3 * problem.base @ turn + 7)
    expected = 3 * Kriging().rows(problem) @ turn + 7
    torch.testing.assert_close(Kriging().rows(moved), expected, rtol=1e-6, atol=1e-7)


def with_other_matrix(problem: MissingRows, dim: int = 10) -> MissingRows:
    """The problem of a donor with a second matrix."""
    inputs = problem.inputs
    rows = random_base(inputs.missing + len(inputs.anchor_rows), dim, seed=9, dtype=DOUBLE)
    rows = rows.to(problem.base.dtype)
    return with_inputs(
        problem, other_targets=rows[: inputs.missing], other_anchors=rows[inputs.missing :]
    )


def test_the_donors_other_matrix_is_used_where_its_rows_are_finite() -> None:
    problem = with_other_matrix(world())
    inputs = problem.inputs
    rows = Kriging().rows(problem)
    assert not torch.allclose(rows, Kriging().rows(world()))
    broken_targets, broken_anchors = (
        inputs.other_targets.clone(),
        inputs.other_anchors.clone(),
    )
    broken_targets[1] = float("nan")
    broken_anchors[2, 3] = float("inf")
    broken = with_inputs(problem, other_targets=broken_targets, other_anchors=broken_anchors)
    assert Kriging().rows(broken).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_rows_that_stay_in_the_donors_matrices_are_read_as_copies_of_them_are(
    dtype: torch.dtype,
) -> None:
    """The other matrix ends before some tokens, also before the first missing one."""
    problem = with_other_matrix(world(dtype=dtype))
    inputs = problem.inputs
    count = inputs.missing + len(inputs.anchor_rows)
    ids = torch.randperm(count, generator=torch.Generator().manual_seed(3))
    donor = torch.cat([inputs.targets, inputs.anchors])[ids.argsort()]
    other = torch.cat([inputs.other_targets, inputs.other_anchors])[ids.argsort()]
    targets, anchors = ids[: inputs.missing], ids[inputs.missing :]
    donor[targets[1]] = torch.nan
    donor[anchors[4]] = 0
    other[anchors[2]] = torch.inf
    end = int(targets[0])
    beyond = torch.where((torch.arange(count) < end)[:, None], other, torch.nan)
    copied = with_inputs(
        problem,
        targets=donor[targets],
        anchors=donor[anchors],
        other_targets=beyond[targets],
        other_anchors=beyond[anchors],
    )
    within = CodingInputs(
        missing=inputs.missing,
        anchor_rows=inputs.anchor_rows,
        donor=donor,
        target_ids=targets,
        anchor_ids=anchors,
        other_matrix=other[:end],
        texts=inputs.texts,
    )
    rows = Kriging().rows(dataclasses.replace(problem, inputs=within))
    assert rows.isfinite().all()
    torch.testing.assert_close(rows, Kriging().rows(copied), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        within.row_fit["predicted_error"], copied.inputs.row_fit["predicted_error"]
    )


def test_the_other_matrix_tells_what_the_first_does_not() -> None:
    problem = with_other_matrix(world(seed=2, dtype=DOUBLE), dim=5)
    inputs = problem.inputs
    affine = random_base(5, 12, seed=7, dtype=DOUBLE)
    base = problem.base.clone()
    base[inputs.anchor_rows] = inputs.other_anchors @ affine
    told = dataclasses.replace(problem, base=base)
    untold = with_inputs(told, other_targets=None, other_anchors=None)
    truth = inputs.other_targets @ affine
    assert (Kriging().rows(told) - truth).norm() < 0.7 * (Kriging().rows(untold) - truth).norm()


def test_rows_of_the_head_go_further_from_the_mean() -> None:
    problem = world(part=Part.HEAD)
    mean = problem.base[problem.inputs.anchor_rows].mean(0)
    near, far = (Kriging(head_gain=gain).rows(problem) for gain in (1.0, 1.5))
    torch.testing.assert_close(far - mean, 1.5 * (near - mean))
    entry = dataclasses.replace(problem, part=Part.INPUT)
    assert torch.equal(Kriging(head_gain=1.5).rows(entry), Kriging(head_gain=1.0).rows(entry))


def texts(base: list[bytes | None], missing: list[bytes | None]) -> Texts:
    rows = {token: row for row, token in enumerate(base) if token}

    def segment(words: list[bytes]) -> list[list[int]]:
        found = []
        for word in words:
            pieces = []
            while word:
                size = next((n for n in range(len(word), 0, -1) if word[:n] in rows), 0)
                pieces += [rows[word[:size]]] if size else []
                word = word[size or 1 :]
            found.append(pieces)
        return found

    return Texts(
        missing=missing, base=base, donor=[], segment_in_base=segment, segment_in_donor=segment
    )


def test_a_token_is_spelled_without_itself() -> None:
    base = [b"a", b"b", b"c", b"ab", b"bc", b"abc", b"abcd", None, b"xyz", b"abcabc"]
    words = texts(base, [])
    found = pieces_without_itself(words, [0, 3, 5, 6, 8, 9])
    assert found == [[], [0, 1], [3, 2], [5], [], [5, 5]]
    # "ab" + "c" and not "a" + "bc": its later token is the earlier. "d" is no token of the base.


def test_missing_tokens_are_cut_as_the_base_cuts_them() -> None:
    words = texts([b"a", b"b", b"ab"], [b"abb", None, b"", b"zz", b"ab"])
    assert pieces_of_missing(words) == [[2, 1], [], [], [], [0, 1]]


def test_texts_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"kriging needs the tokens' texts"):
        Kriging().rows(with_inputs(world(), texts=None))


def test_control_tokens_and_tokens_that_cannot_be_spelled_get_rows() -> None:
    problem = world()
    blank = dataclasses.replace(problem.inputs.texts, missing=[None] * problem.inputs.missing)
    rows = Kriging().rows(with_inputs(problem, texts=blank))
    assert rows.isfinite().all()
    assert not torch.allclose(rows, Kriging().rows(problem))


def numbers(part: Part) -> MissingRows:
    """A base with the ten digits and one pair, and a donor that writes numbers as one token."""
    base: list[bytes | None] = [
        *(bytes([c]) for c in b"0123456789"),
        b"a",
        b"b",
        b"ab",
        b" ",
        b"77",
    ]
    missing = [b"123", b" 90", b"778", b"4b", b"bb", b"5 6"]
    rows = random_base(len(base) + len(missing), 9, seed=5)
    return MissingRows(
        part=part,
        base=random_base(len(base), 12, seed=6),
        inputs=CodingInputs(
            missing=len(missing),
            anchor_rows=torch.arange(len(base)),
            targets=rows[len(base) :],
            anchors=rows[: len(base)],
            texts=texts(base, [*missing]),
        ),
    )


def test_numbers_are_made_of_their_digits_in_part() -> None:
    for part, share in ((Part.INPUT, 0.3), (Part.HEAD, 0.2)):
        problem = numbers(part)
        with_digits, without = Kriging().rows(problem), Kriging(digits=False).rows(problem)
        # 778 is "77" and "8" to the base; the others are no numbers.
        assert torch.equal(with_digits[2:], without[2:])
        for i, digits in ((0, [1, 2, 3]), (1, [9, 0])):
            rows = problem.base[digits]
            towards = rows.mean(0) if part == Part.INPUT else rows[0]
            expected = share * towards + (1 - share) * without[i]
            torch.testing.assert_close(with_digits[i], expected)


def test_a_broken_row_of_a_digit_spoils_no_number() -> None:
    problem = numbers(Part.INPUT)
    broken = problem.base.clone()
    broken[2] = float("nan")
    inputs = problem.inputs
    kept = torch.arange(len(broken)) != 2
    without = with_inputs(
        dataclasses.replace(problem, base=broken),
        anchors=inputs.anchors[kept],
        anchor_rows=inputs.anchor_rows[kept],
    )
    assert Kriging().rows(without).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_anchors_by_8_bit_integers_are_those_of_an_exhaustive_search(
    dtype: torch.dtype,
) -> None:
    matrices = [random_base(1300, dim, seed=dim, dtype=dtype) for dim in (24, 16)]
    for matrix in matrices:
        # More copies of one row, but for the last digits, than there is room for candidates.
        matrix[300:900] = matrix[:1] * (1 + torch.arange(600)[:, None] / 1e7)
        matrix[1200] = matrix[:1]
    matrices[1][5] = torch.nan
    blocks = [
        FeatureBlock.of(
            FeatureRows.all_finite(matrix[:1200]), FeatureRows.all_finite(matrix[1200:])
        )
        for matrix in matrices
    ]
    coarse = CoarseAnchors.of(1200, 40, dtype, lambda part: anchor_features(blocks, part, dtype))
    targets = units(missing_features(blocks, slice(None), dtype))
    picks, sizes = coarse.candidates(targets, 7)
    assert sizes[0] == -1, "so many alike do not fit"
    assert len(picks) == sizes.clamp_min(0).sum()
    assert sizes.max() < 400
    assert (sizes >= 7).sum() > 50
    cosines, whose = nearest_by(coarse, targets, blocks, 7)
    expected, best = (targets @ units(anchor_features(blocks, slice(None), dtype)).T).topk(7, dim=1)
    torch.testing.assert_close(cosines, expected, rtol=0, atol=1e-5)
    assert torch.equal(whose[1:], best[1:])

    # Of those that are not wanted, -inf and any anchor may be in the places.
    least = expected[:, 3] - 1e-6
    least[7] = 2
    few, whose = nearest_by(coarse, targets, blocks, 7, least)
    wanted = expected >= least[:, None]
    torch.testing.assert_close(few[wanted], expected[wanted], rtol=0, atol=1e-5)
    assert torch.equal(whose[1:][wanted[1:]], best[1:][wanted[1:]])
    assert few[7].isinf().all() and (whose < 1200).all()
    assert len(coarse.candidates(targets, 7, least)[0]) < len(picks)
