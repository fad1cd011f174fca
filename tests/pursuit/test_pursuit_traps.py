"""Degenerate dictionaries and targets: each has broken a pursuit somewhere."""

from __future__ import annotations

import logging

import pytest
import torch
from here import EVERY_SEARCH, EXACT_SEARCHES
from pursuit_dictionaries import dictionary

from mergekit_omp.pursuit import orthogonal_matching_pursuit

every_search = pytest.mark.parametrize("search", EVERY_SEARCH)


@every_search
def test_k_is_clamped_with_one_warning(search: str, caplog: pytest.LogCaptureFixture) -> None:
    targets, atoms = dictionary(4, 50, 12)
    with caplog.at_level(logging.WARNING):
        code = orthogonal_matching_pursuit(targets, atoms, 40, search=search)
    assert [record.getMessage() for record in caplog.records] == [
        "k reduced from 40 to 12: a target cannot use more atoms than there are (50)"
        " or than the dimension (12)"
    ]
    assert code.indices.shape == (4, 12)
    assert code.residual_norms.max() < 1e-3 * targets.norm(dim=1).max()
    assert code.coefficients.abs().max() < 100
    few = orthogonal_matching_pursuit(targets, atoms[:3], 40, search=search)
    assert few.indices.shape == (4, 3)


@every_search
def test_a_target_that_is_an_atom_needs_that_atom_alone(search: str) -> None:
    _, atoms = dictionary(1, 200, 32)
    # Atoms of one norm: the target's own has the largest inner product with it.
    atoms = atoms / atoms.norm(dim=1, keepdim=True)
    code = orthogonal_matching_pursuit(-3 * atoms[:20], atoms, 8, search=search)
    assert torch.equal(code.indices[:, 0], torch.arange(20))
    assert not code.indices[:, 1:].any()
    torch.testing.assert_close(code.coefficients[:, 0], torch.full((20,), -3.0))
    assert not code.coefficients[:, 1:].any()
    assert code.residual_norms.max() < 1e-5


@every_search
def test_duplicate_atoms_do_not_blow_coefficients_up(search: str) -> None:
    targets, atoms = dictionary(20, 40, 24)
    doubled = torch.cat([atoms, atoms, atoms * (1 + 1e-6)])
    code = orthogonal_matching_pursuit(targets, doubled, 24, search=search)
    assert code.coefficients.abs().max() < 100
    used = code.coefficients != 0
    for row, mask in zip(code.indices % 40, used, strict=True):
        assert len(row[mask].unique()) == int(mask.sum())


@every_search
def test_dependent_atoms_are_never_chosen(search: str) -> None:
    targets, atoms = dictionary(20, 3, 16)
    mixtures = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)) @ atoms
    code = orthogonal_matching_pursuit(targets, mixtures, 10, search=search)
    assert ((code.coefficients != 0).sum(dim=1) <= 3).all()
    span = torch.linalg.lstsq(atoms.double().T, targets.double().T)[0]
    best = (targets.double() - span.T @ atoms.double()).norm(dim=1)
    torch.testing.assert_close(code.residual_norms.double(), best, rtol=1e-4, atol=1e-4)


@every_search
def test_zero_and_non_finite_atoms_are_never_chosen(search: str) -> None:
    targets, atoms = dictionary(10, 60, 16)
    bad = {0: 0.0, 7: torch.nan, 8: torch.inf, 59: -torch.inf}
    spoilt = atoms.clone()
    for row, value in bad.items():
        spoilt[row] = value
    code = orthogonal_matching_pursuit(targets, spoilt, 8, search=search)
    good = [row for row in range(60) if row not in bad]
    clean = orthogonal_matching_pursuit(targets, atoms[good], 8, search=search)
    assert torch.equal(code.indices, torch.tensor(good)[clean.indices])
    torch.testing.assert_close(code.coefficients, clean.coefficients)


@every_search
def test_one_finite_atom_with_an_infinite_norm_is_left_out(search: str) -> None:
    targets, atoms = dictionary(3, 20, 8)
    atoms[4] = 3e38
    code = orthogonal_matching_pursuit(targets, atoms, 3, search=search)
    assert not (code.indices == 4).any() and code.coefficients.isfinite().all()


@every_search
def test_no_usable_atom_gives_an_empty_support(search: str) -> None:
    targets, _ = dictionary(3, 1, 8)
    for atoms in (torch.zeros(5, 8), torch.empty(0, 8)):
        code = orthogonal_matching_pursuit(targets, atoms, 2, search=search)
        assert not code.coefficients.any() and not code.indices.any()
        torch.testing.assert_close(code.residual_norms, targets.norm(dim=1))


@every_search
def test_a_zero_target_has_an_empty_support(search: str) -> None:
    targets, atoms = dictionary(3, 40, 8)
    targets[1] = 0
    code = orthogonal_matching_pursuit(targets, atoms, 4, search=search)
    assert not code.coefficients[1].any() and not code.indices[1].any()
    assert code.residual_norms[1] == 0
    assert code.coefficients[[0, 2]].all()


@every_search
def test_no_targets_and_one_atom(search: str) -> None:
    targets, atoms = dictionary(2, 1, 8)
    assert orthogonal_matching_pursuit(targets[:0], atoms, 4, search=search).indices.shape[0] == 0
    code = orthogonal_matching_pursuit(targets, atoms, 1, search=search)
    expected = (targets @ atoms[0]) / atoms[0].square().sum()
    torch.testing.assert_close(code.coefficients[:, 0], expected)


@every_search
def test_orthogonal_targets_stop_at_once(search: str) -> None:
    _, atoms = dictionary(1, 30, 8)
    atoms[:, 4:] = 0
    targets = torch.zeros(2, 8)
    targets[:, 5] = 2
    code = orthogonal_matching_pursuit(targets, atoms, 4, search=search)
    assert not code.coefficients.any()
    torch.testing.assert_close(code.residual_norms, torch.full((2,), 2.0))


@pytest.mark.parametrize("search", EXACT_SEARCHES)
def test_a_target_beside_all_atoms_leaves_the_others_alone(search: str) -> None:
    targets, atoms = dictionary(40, 900, 32)
    atoms[:, 28:] = 0
    targets[::2, :28] = 0
    code = orthogonal_matching_pursuit(targets, atoms, 12, search=search)
    alone = orthogonal_matching_pursuit(targets[1::2], atoms, 12, search=search)
    assert not code.coefficients[::2].any()
    assert torch.equal(code.indices[1::2], alone.indices)
    torch.testing.assert_close(code.coefficients[1::2], alone.coefficients)


@every_search
def test_tolerance_stops_early(search: str) -> None:
    targets, atoms = dictionary(20, 500, 32)
    full = orthogonal_matching_pursuit(targets, atoms, 24, search=search)
    code = orthogonal_matching_pursuit(targets, atoms, 24, search=search, tolerance=0.5)
    sizes = (code.coefficients != 0).sum(dim=1)
    assert (code.residual_norms <= 0.5 * targets.norm(dim=1)).all()
    assert (sizes < 24).all() and (sizes > 1).all()
    one_less = [
        orthogonal_matching_pursuit(targets[[row]], atoms, size - 1, search=search)
        for row, size in enumerate(sizes.tolist())
    ]
    assert (
        all(less.residual_norms[0] > 0.5 * targets[row].norm() for row, less in enumerate(one_less))
        or search == "fast"
    )
    first = torch.arange(24) < sizes[:, None]
    if search != "fast":
        assert torch.equal(code.indices[first], full.indices[first])


def test_ties_go_to_the_first_atom() -> None:
    atoms = torch.eye(6)[[2, 4, 1, 3]]
    for search in ("reference", "screened"):
        code = orthogonal_matching_pursuit(torch.ones(1, 6), atoms, 3, search=search)
        assert code.indices.tolist() == [[0, 1, 2]]
