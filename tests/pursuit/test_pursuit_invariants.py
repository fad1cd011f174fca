"""What holds for every dictionary and every search."""

from __future__ import annotations

import itertools

import pytest
import torch
from here import EVERY_SEARCH
from hypothesis import given, settings
from hypothesis import strategies as st
from pursuit_dictionaries import dictionary

from mergekit_omp.pursuit import orthogonal_matching_pursuit

problems = st.builds(
    dictionary,
    targets=st.integers(1, 6),
    atoms=st.integers(1, 60),
    dim=st.integers(2, 24),
    seed=st.integers(0, 10**6),
    dtype=st.just(torch.float64),
)
searches = st.sampled_from(EVERY_SEARCH)
few = settings(max_examples=15, deadline=None)


@few
@given(problems, searches, st.integers(1, 12))
def test_residuals_are_right_and_orthogonal_to_the_support(problem, search, k) -> None:  # type: ignore[no-untyped-def]
    targets, atoms = problem
    code = orthogonal_matching_pursuit(targets, atoms, k, search=search)
    left = targets - code.decode(atoms)
    torch.testing.assert_close(code.residual_norms, left.norm(dim=1), atol=1e-9, rtol=1e-9)
    used = code.coefficients != 0
    along = torch.einsum("bkd,bd->bk", atoms[code.indices], left)[used]
    assert along.abs().max() < 1e-7 * (1 + targets.norm(dim=1).max() * atoms.norm(dim=1).max())
    for row, mask in zip(code.indices, used, strict=True):
        assert len(row[mask].unique()) == int(mask.sum())
        assert (row[~mask] == 0).all()


@few
@given(problems, searches, st.integers(1, 12))
def test_residuals_never_grow_with_k(problem, search, k) -> None:  # type: ignore[no-untyped-def]
    targets, atoms = problem
    k = min(k, *atoms.shape)
    norms = [
        orthogonal_matching_pursuit(targets, atoms, size, search=search).residual_norms
        for size in range(1, k + 1)
    ]
    norms.insert(0, targets.norm(dim=1))
    for before, after in itertools.pairwise(norms):
        assert (after <= before * (1 + 1e-9) + 1e-9).all()


@few
@given(problems, searches, st.randoms(use_true_random=False))
def test_order_does_not_matter(problem, search, random) -> None:  # type: ignore[no-untyped-def]
    targets, atoms = problem
    k = min(6, *atoms.shape)
    code = orthogonal_matching_pursuit(targets, atoms, k, search=search)
    swap = list(range(len(atoms)))
    random.shuffle(swap)
    order = list(range(len(targets)))
    random.shuffle(order)
    other = orthogonal_matching_pursuit(targets[order], atoms[swap], k, search=search)
    rows = torch.zeros(len(targets), len(atoms), dtype=torch.float64)
    there = torch.tensor(swap)[other.indices]
    torch.testing.assert_close(
        rows.clone().scatter_add_(1, there, other.coefficients),
        rows.clone().scatter_add_(1, code.indices, code.coefficients)[order],
        atol=1e-8,
        rtol=1e-8,
    )


@few
@given(problems, searches, st.sampled_from([2.0**-20, 0.25, 8.0, 2.0**20]))
def test_scales_with_the_targets_and_against_the_atoms(problem, search, scale) -> None:  # type: ignore[no-untyped-def]
    targets, atoms = problem
    k = min(5, *atoms.shape)
    code = orthogonal_matching_pursuit(targets, atoms, k, search=search)
    larger = orthogonal_matching_pursuit(targets * scale, atoms, k, search=search)
    smaller = orthogonal_matching_pursuit(targets, atoms * scale, k, search=search)
    assert torch.equal(larger.indices, code.indices)
    assert torch.equal(smaller.indices, code.indices)
    close = {"rtol": 1e-9, "atol": 0}
    torch.testing.assert_close(larger.coefficients, code.coefficients * scale, **close)
    torch.testing.assert_close(smaller.coefficients, code.coefficients / scale, **close)


@pytest.mark.parametrize("search", EVERY_SEARCH)
def test_runs_repeat_to_the_bit(search: str) -> None:
    targets, atoms = dictionary(30, 800, 64)
    first = orthogonal_matching_pursuit(targets, atoms, 16, search=search)
    second = orthogonal_matching_pursuit(targets, atoms, 16, search=search)
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(first.coefficients, second.coefficients)
    assert torch.equal(first.residual_norms, second.residual_norms)
