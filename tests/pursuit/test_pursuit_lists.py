"""Guesses from lists save sweeps, and those that are wrong are found out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pursuit_dictionaries import dictionary
from torch import Tensor

from mergekit_omp.pursuit import (
    SparseCode,
    compiled,
    eight_bit,
    orthogonal_matching_pursuit,
)
from mergekit_omp.pursuit.caution import FAST_CAUTION, best_caution
from mergekit_omp.pursuit.combinations import combine
from mergekit_omp.pursuit.eight_bit import EightBit, Kept
from mergekit_omp.pursuit.listed import solve_listed
from mergekit_omp.pursuit.lockstep import Exhaustive, solve_in_lockstep
from mergekit_omp.pursuit.problem import Problem, prepare
from mergekit_omp.pursuit.register_tiles import COLUMNS, ROWS
from mergekit_omp.pursuit.verification import Guesses, wrong_guesses

pytestmark = pytest.mark.skipif(
    not eight_bit.in_registers(prepare(torch.ones(1, 2), torch.ones(1, 2), 1, None)),
    reason="this processor has no AVX512-VNNI, or has AMX, which torch knows to use",
)


def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that are swept from now on."""
    sizes: list[int] = []
    screen = EightBit.screen

    def counted(self: EightBit, residuals: Tensor, kept: Kept, keep: int = 0) -> object:
        sizes.append(len(residuals))
        return screen(self, residuals, kept, keep)

    monkeypatch.setattr(EightBit, "screen", counted)
    return sizes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_supports_are_exact_in_a_fraction_of_the_sweeps(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    targets, atoms = dictionary(60, 6000, 256, seed=2, dtype=dtype)
    expected = orthogonal_matching_pursuit(targets, atoms, 32, search="reference")
    sizes = sweeps(monkeypatch)
    code = orthogonal_matching_pursuit(targets, atoms, 32, search="listed")
    assert torch.equal(code.indices, expected.indices)
    torch.testing.assert_close(code.coefficients, expected.coefficients)
    assert sum(sizes) < 0.8 * 60 * 32


def reckless(problem: Problem, caution: float) -> tuple[Tensor, Tensor]:
    """Targets whose supports differ from those of the reference when guesses are hasty, and those
    that the check finds."""
    search = EightBit(problem, by_torch=False)
    code, trail = solve_listed(problem, search, caution)
    rows = torch.arange(len(problem.targets))
    batches = []
    for some in rows.split(17):
        parts = (trail.guessed, trail.largest, trail.factor, trail.projections)
        piece = type(trail)(*(part[some] for part in parts))
        supports = SparseCode(
            code.indices[some], code.coefficients[some], code.residual_norms[some]
        )
        batches.append(Guesses.of(problem, some, supports, piece))
    exact = solve_in_lockstep(problem, Exhaustive(problem))
    differ = (code.indices != exact.indices).any(dim=1).nonzero().squeeze(1)
    return differ, wrong_guesses(problem, search, batches)


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e15])
def test_every_wrong_guess_is_found_out_and_no_right_one(scale: float) -> None:
    targets, atoms = dictionary(100, 5000, 128, seed=7)
    differ, wrong = reckless(prepare(targets * scale, atoms / scale, 24, None), 1.0)
    assert 5 < len(differ) < 95
    assert wrong.tolist() == differ.tolist()


def test_wrong_guesses_are_solved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, atoms = dictionary(100, 5000, 128, seed=7)
    monkeypatch.setattr("mergekit_omp.pursuit.caution.USUAL_CAUTION", 0.0)
    code = orthogonal_matching_pursuit(targets, atoms, 24, search="listed")
    expected = orthogonal_matching_pursuit(targets, atoms, 24, search="reference")
    assert torch.equal(code.indices, expected.indices)


def test_an_atom_that_only_the_check_can_see_is_found() -> None:
    """A twin of a pick with the opposite turn: it leads for one iteration, and falls back."""
    targets, atoms = dictionary(30, 4000, 64, seed=9)
    near = atoms[torch.arange(500)] + 0.05 * atoms[torch.arange(500) + 1000]
    differ, wrong = reckless(prepare(targets, torch.cat([atoms, near]), 16, None), 0.0)
    assert set(differ.tolist()) <= set(wrong.tolist())
    assert len(wrong) <= len(differ) + 2


def test_guessing_is_given_up_where_it_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, atoms = dictionary(300, 3000, 64, seed=3)
    problem = prepare(targets, atoms, 12, None)
    monkeypatch.setattr("mergekit_omp.pursuit.caution.WORTH", 0.0)
    assert best_caution(problem, EightBit(problem, by_torch=False)) is None
    code = orthogonal_matching_pursuit(targets, atoms, 12, search="listed")
    part = orthogonal_matching_pursuit(targets[::5], atoms, 12, search="reference")
    assert torch.equal(code.indices[::5], part.indices)


def test_a_caution_is_chosen_where_guessing_pays() -> None:
    targets, atoms = dictionary(300, 6000, 256, seed=2)
    problem = prepare(targets, atoms, 32, None)
    assert best_caution(problem, EightBit(problem, by_torch=False)) in (1.0, 1.4, 2.0)


def test_unchecked_guesses_are_nearly_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, atoms = dictionary(80, 6000, 256, seed=2)
    problem = prepare(targets, atoms, 32, None)
    exact = solve_in_lockstep(problem, Exhaustive(problem))
    sizes = sweeps(monkeypatch)
    code, _ = solve_listed(problem, EightBit(problem, by_torch=False), FAST_CAUTION)
    assert code.residual_norms.mean() <= 1.002 * exact.residual_norms.mean()
    assert sum(sizes) < 0.5 * 80 * 32


@compiled.kernel
def combined(weights, rows, limits, out):  # type: ignore[no-untyped-def]
    return combine(weights, rows, limits, out)


@settings(deadline=None, max_examples=20)
@given(steps=st.integers(1, 70), seed=st.integers(0, 99))
def test_combinations_are_matrix_products(steps: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    weights = draw.standard_normal((ROWS, steps), np.float32)
    wide = draw.standard_normal((steps, COLUMNS + 16), np.float32)
    rows = wide[:, 16:]
    out = np.full((ROWS, COLUMNS), 7, np.float32)
    expected = weights.astype(np.float64) @ rows
    assert combined(weights, rows, np.full(ROWS, 1e9, np.float32), out) == 0
    assert (out == 7).all()
    limits = np.full(ROWS, 1e9, np.float32)
    limits[3] = 0.999 * np.abs(expected[3]).max()
    assert combined(weights, rows, limits, out) == 1 << 3
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
