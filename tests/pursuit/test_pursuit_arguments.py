"""Bad arguments: one clear error, naming the culprit and what to write."""

from __future__ import annotations

import pytest
import torch
from pursuit_dictionaries import dictionary

from mergekit_omp.pursuit import orthogonal_matching_pursuit

TARGETS, ATOMS = dictionary(5, 40, 8)
WRONG = (ValueError, TypeError)


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one(k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}: write an integer of at least 1"):
        orthogonal_matching_pursuit(TARGETS, ATOMS, k)


@pytest.mark.parametrize("k", [True, "64", 2.0, None])
def test_k_of_another_type(k: object) -> None:
    with pytest.raises(TypeError):
        orthogonal_matching_pursuit(TARGETS, ATOMS, k)  # type: ignore[arg-type]


def test_k_true_is_named() -> None:
    with pytest.raises(TypeError, match="k is True, a bool"):
        orthogonal_matching_pursuit(TARGETS, ATOMS, True)


def test_dimensions_that_disagree() -> None:
    with pytest.raises(WRONG):
        orthogonal_matching_pursuit(TARGETS[:, :5], ATOMS, 2)
    with pytest.raises(WRONG):
        orthogonal_matching_pursuit(TARGETS[0], ATOMS, 2)
    with pytest.raises(WRONG):
        orthogonal_matching_pursuit(TARGETS.long(), ATOMS, 2)


def test_targets_that_are_not_finite() -> None:
    targets = TARGETS.clone()
    targets[3, 1] = torch.nan
    targets[4, 0] = torch.inf
    with pytest.raises(ValueError, match=r"target 3 has values that are not finite \(2 of 5"):
        orthogonal_matching_pursuit(targets, ATOMS, 2)


@pytest.mark.parametrize(
    ("search", "near"), [("grma", "gram"), ("sreened", "screened"), ("Fast", "fast")]
)
def test_unknown_search_names_the_nearest(search: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"search is '{search}'.*perhaps '{near}'"):
        orthogonal_matching_pursuit(TARGETS, ATOMS, 2, search=search)


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_tolerance_out_of_range(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance"):
        orthogonal_matching_pursuit(TARGETS, ATOMS, 2, tolerance=tolerance)


@pytest.mark.parametrize("memory", [0, -1, 1000])
def test_memory_that_nothing_fits(memory: int) -> None:
    with pytest.raises(ValueError, match=r"needs at least 0.* GB of memory.*raise `memory`"):
        orthogonal_matching_pursuit(TARGETS, ATOMS, 2, memory=memory)


@pytest.mark.parametrize("memory", [True, "4GB", 1e9])
def test_memory_of_another_type(memory: object) -> None:
    with pytest.raises(TypeError):
        orthogonal_matching_pursuit(TARGETS, ATOMS, 2, memory=memory)  # type: ignore[arg-type]
