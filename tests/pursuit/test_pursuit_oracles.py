"""Supports and coefficients against scikit-learn, mergekit and float64 least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from here import EXACT_SEARCHES, WAYS
from mergekit.tokensurgeon import batch_omp
from pursuit_dictionaries import dictionary
from sklearn.linear_model import orthogonal_mp

from mergekit_omp.pursuit import SparseCode, orthogonal_matching_pursuit
from mergekit_omp.pursuit.gram import STEPS, build, solve_by_gram
from mergekit_omp.pursuit.problem import prepare
from mergekit_omp.pursuit.ways import Way

PRECISION = {torch.float32: 1e-5, torch.float64: 1e-10}


def dense(code: SparseCode, atoms: int) -> torch.Tensor:
    out = torch.zeros(len(code.indices), atoms, dtype=code.coefficients.dtype)
    return out.scatter_add_(1, code.indices, code.coefficients)


@pytest.mark.parametrize("search", EXACT_SEARCHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_batch_omp(search: str, dtype: torch.dtype) -> None:
    targets, atoms = dictionary(60, 1500, 96, dtype=dtype)
    expected, coefficients = batch_omp(targets, atoms, 24)
    code = orthogonal_matching_pursuit(targets, atoms, 24, search=search)
    assert torch.equal(code.indices, expected)
    torch.testing.assert_close(
        code.coefficients, coefficients, atol=PRECISION[dtype], rtol=PRECISION[dtype]
    )


@pytest.mark.parametrize("search", EXACT_SEARCHES)
def test_agrees_with_scikit_learn(search: str) -> None:
    targets, atoms = dictionary(40, 700, 64, seed=1, dtype=torch.float64)
    expected = orthogonal_mp(atoms.numpy().T, targets.numpy().T, n_nonzero_coefs=20).T
    code = orthogonal_matching_pursuit(targets, atoms, 20, search=search)
    assert np.array_equal(dense(code, 700).numpy() != 0, expected != 0)
    np.testing.assert_allclose(dense(code, 700).numpy(), expected, atol=1e-10)


if Way.GRAM in WAYS:

    @pytest.mark.parametrize("dtype", STEPS)
    @pytest.mark.parametrize("scale", [1, 1e-15, 1e15])
    @pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float64])
    def test_a_gram_matrix_is_off_by_no_more_than_it_says(
        kind: torch.dtype, scale: float, dtype: torch.dtype
    ) -> None:
        working = torch.promote_types(kind, torch.float32)
        targets, atoms = dictionary(3, 1100, 300, seed=3)
        atoms = (atoms * scale).to(kind).to(working)
        atoms[7] = 0
        atoms[8], atoms[9], atoms[10] = (
            atoms[6],
            -atoms[6],
            (1e19 * torch.eye(300)[0]).to(kind).to(working),
        )
        problem = prepare(targets, atoms, 4, None)
        assert problem.usable.sum() == 1099
        before = torch.backends.mkldnn.matmul.fp32_precision
        table = build(problem, dtype)
        assert torch.backends.mkldnn.matmul.fp32_precision == before
        assert table.short == (kind == torch.bfloat16)
        exact = atoms.double() / atoms.double().norm(dim=1).clamp(min=1e-300)[:, None]
        values = torch.from_numpy(table.values[:, :1100]).double() / STEPS[dtype]
        assert (values - exact @ exact.T).abs().max() < table.rounding

    @pytest.mark.parametrize("dtype", STEPS)
    def test_a_gram_matrix_of_integers_gives_the_same_supports(dtype: torch.dtype) -> None:
        targets, atoms = dictionary(60, 5000, 512, seed=2)
        problem = prepare(targets, atoms, 32, None)
        code, hard = solve_by_gram(problem, build(problem, dtype), 25)
        expected, coefficients = batch_omp(targets, atoms, 32)
        sure = torch.ones(len(targets), dtype=torch.bool)
        sure[hard] = False
        assert sure.sum() > 50
        assert torch.equal(code.indices[sure], expected[sure])
        torch.testing.assert_close(
            code.coefficients[sure], coefficients[sure], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("search", EXACT_SEARCHES)
def test_a_long_support_is_sound(search: str) -> None:
    targets, atoms = dictionary(4, 900, 320, seed=3)
    code = orthogonal_matching_pursuit(targets, atoms, 256, search=search)
    for row in range(len(targets)):
        support = atoms[code.indices[row]].double()
        exact = torch.linalg.lstsq(support.T, targets[row].double()[:, None])[0][:, 0]
        assert (code.coefficients[row] - exact).norm() < 1e-3 * exact.norm()


def test_fast_is_close_to_exact() -> None:
    targets, atoms = dictionary(100, 4000, 256, seed=4)
    exact = orthogonal_matching_pursuit(targets, atoms, 48, search="reference")
    fast = orthogonal_matching_pursuit(targets, atoms, 48, search="fast")
    assert fast.residual_norms.mean() <= 1.002 * exact.residual_norms.mean()
    left = (targets - fast.decode(atoms)).norm(dim=1)
    torch.testing.assert_close(fast.residual_norms, left, rtol=1e-5, atol=1e-5)
    assert (fast.indices.sort(dim=1)[0].diff(dim=1) > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_worked_on_in_float32(dtype: torch.dtype) -> None:
    targets, atoms = (rows.to(dtype) for rows in dictionary(20, 300, 48, seed=5))
    code = orthogonal_matching_pursuit(targets, atoms, 12)
    wide = orthogonal_matching_pursuit(targets.float(), atoms.float(), 12)
    assert code.coefficients.dtype == torch.float32
    assert torch.equal(code.indices, wide.indices)
    assert torch.equal(code.coefficients, wide.coefficients)


def test_float64_wins_over_float32() -> None:
    targets, atoms = dictionary(5, 40, 16)
    code = orthogonal_matching_pursuit(targets.double(), atoms, 4)
    assert code.coefficients.dtype == code.residual_norms.dtype == torch.float64
