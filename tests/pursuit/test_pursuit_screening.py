"""Screened searches find the atoms of an exhaustive one, on dictionaries that are hard to round."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from here import CPU, SCREENS
from pursuit_dictionaries import dictionary
from torch import Tensor

from mergekit_omp.pursuit.choice import choose
from mergekit_omp.pursuit.lockstep import Exhaustive, solve_in_lockstep
from mergekit_omp.pursuit.problem import Problem, prepare
from mergekit_omp.pursuit.solve import search_by
from mergekit_omp.pursuit.ways import Way, available

screens = pytest.mark.parametrize("way", [way for way in SCREENS if way is not Way.FLOAT])


def ordinary() -> tuple[Tensor, Tensor]:
    return dictionary(60, 3000, 96)


def double() -> tuple[Tensor, Tensor]:
    return dictionary(20, 900, 64, dtype=torch.float64)


def two_levels() -> tuple[Tensor, Tensor]:
    """Entries of half the largest lie between two steps of any 8-bit scale."""
    draw = torch.Generator().manual_seed(3)
    signs = torch.randint(0, 2, (1200, 128), generator=draw) * 2.0 - 1
    levels = torch.randint(1, 3, (1200, 128), generator=draw) / 2.0
    rows = signs * levels
    return rows[:40] @ torch.eye(128) + rows[40:80], rows[80:]


def outlying() -> tuple[Tensor, Tensor]:
    """One entry in a row is so large that the others are a step or less."""
    targets, atoms = dictionary(40, 2000, 64)
    atoms[torch.arange(2000), torch.arange(2000) % 64] *= 200
    return targets, atoms


def crowded() -> tuple[Tensor, Tensor]:
    """More atoms are nearly the same than there are places for candidates."""
    targets, atoms = dictionary(10, 50, 32)
    draw = torch.Generator().manual_seed(5)
    near = atoms[0] + 0.01 * torch.randn(1500, 32, generator=draw)
    return torch.cat([targets, near[:20] + 0.1 * targets[:1]]), torch.cat([atoms, near])


def scaled() -> tuple[Tensor, Tensor]:
    """Norms over twenty orders of magnitude; products of the largest would overflow."""
    targets, atoms = dictionary(30, 500, 32)
    return targets * 1e20, atoms * torch.logspace(-4, 16, 500)[:, None]


def tiny_targets() -> tuple[Tensor, Tensor]:
    """Their correlations are no numbers of float32."""
    targets, atoms = double()
    return targets * 1e-60, atoms


def tiny_atoms() -> tuple[Tensor, Tensor]:
    targets, atoms = double()
    return targets, atoms * 1e-60


HARD = [ordinary, double, two_levels, outlying, crowded, scaled, tiny_targets, tiny_atoms]


@screens
@pytest.mark.parametrize("make", HARD)
def test_supports_are_those_of_an_exhaustive_search(
    way: Way, make: Callable[[], tuple[Tensor, Tensor]]
) -> None:
    problem = prepare(*make(), 12, None)
    expected = solve_in_lockstep(problem, Exhaustive(problem))
    code = solve_in_lockstep(problem, search_by(problem, way))
    assert torch.equal(code.indices, expected.indices)
    torch.testing.assert_close(code.coefficients, expected.coefficients)


@screens
def test_barred_atoms_are_not_found(way: Way) -> None:
    problem = prepare(*dictionary(20, 700, 48), 4, None)
    barred = torch.zeros(20, 700, dtype=torch.bool)
    _, first = Exhaustive(problem).find(problem.targets, barred)
    barred[torch.arange(20), first] = True
    expected = Exhaustive(problem).find(problem.targets, barred)
    best, found = search_by(problem, way).find(problem.targets, barred)
    assert torch.equal(found, expected[1])
    assert not (found == first).any()
    torch.testing.assert_close(best, expected[0])


@screens
def test_equal_atoms_give_the_first(way: Way) -> None:
    _, atoms = dictionary(1, 400, 40)
    problem = prepare(atoms[:9], torch.cat([atoms, atoms]), 1, None)
    _, found = search_by(problem, way).find(problem.targets, torch.zeros(9, 800, dtype=torch.bool))
    assert (found < 400).all()


@pytest.mark.parametrize("budget", [1 << 29, 2 << 30])
def test_the_best_of_what_there_is_is_taken_where_a_gram_matrix_is_too_large(budget: int) -> None:
    zero = torch.zeros(1)
    problem = Problem(
        targets=zero.expand(40_000, 896),
        atoms=zero.expand(110_000, 896),
        target_norms=zero.expand(40_000),
        atom_norms=zero.expand(110_000),
        usable=torch.ones(1, dtype=torch.bool).expand(110_000),
        sparsity=64,
        tolerance=1e-5,
    )
    plan = choose(problem, "auto", budget)
    assert plan.bytes <= budget
    reference = choose(problem, "reference", budget)
    if Way.BYTES in available(CPU):
        assert plan.search == "screened"
        assert plan.cost < reference.cost / 3
    else:
        assert plan.cost <= reference.cost
