"""Whatever has one of the largest products is among the candidates that integers name."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergekit_omp.pursuit.candidates import CAPACITY, Coarse, Kept, screen
from mergekit_omp.pursuit.rounding import rounded


def problem(seed: int, targets: int, vectors: int, dim: int) -> tuple[Tensor, Tensor]:
    """Targets of length 1, one of zeros, and vectors of many lengths, some of them the same."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(targets, dim, generator=draw)
    rows /= rows.norm(dim=1, keepdim=True)
    rows[-1] = 0
    others = torch.randn(vectors, dim, generator=draw)
    others *= torch.exp(torch.randn(vectors, 1, generator=draw))
    others[vectors // 2 :: 7] = others[0].clone()
    return rows, others


def screened(rows: Tensor, others: Tensor, wanted: int, magnitudes: bool, **more: Tensor) -> Kept:
    (targets, scales), (vectors, steps) = rounded(rows, seed=0), rounded(others, seed=1)
    coarse = Coarse.of(steps, others.norm(dim=1))
    return screen(targets, scales, vectors, coarse, wanted, magnitudes, **more)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    vectors=st.integers(1, 300),
    wanted=st.integers(1, 5),
    magnitudes=st.booleans(),
)
def test_the_largest_products_are_among_the_candidates(
    seed: int, vectors: int, wanted: int, magnitudes: bool
) -> None:
    rows, others = problem(seed, 6, vectors, 16)
    kept = screened(rows, others, wanted, magnitudes)
    products = rows @ others.T
    products = products.abs() if magnitudes else products
    for i, (line, count) in enumerate(zip(products, kept.counts, strict=True)):
        picks = set(kept.picks[i, :count].tolist())
        level = line.topk(min(wanted, vectors)).values[-1] * (1 + 1e-6)
        assert set((line > level).nonzero()[:, 0].tolist()) <= picks
        assert len(picks) == count >= min(wanted, vectors)


def test_products_below_what_is_wanted_are_not() -> None:
    rows, others = problem(3, 40, 900, 48)
    products = rows @ others.T
    least = products.topk(3, dim=1).values[:, -1] - 1e-5
    least[0] = 2 * products[0].max()
    kept, every = screened(rows, others, 8, False, least=least), screened(rows, others, 8, False)
    assert kept.counts[0] == 0
    for i in range(len(rows) - 1):
        wanted = set((products[i] >= least[i]).nonzero()[:, 0].tolist())
        assert wanted <= set(kept.picks[i, : kept.counts[i]].tolist())
    assert kept.counts[:-1].sum() < every.counts[:-1].sum()


def test_more_candidates_than_there_is_room_for_are_counted_as_too_many() -> None:
    rows, others = problem(5, 4, CAPACITY + 300, 16)
    others[:] = others[0].clone()
    assert (screened(rows, others, 1, True).counts > CAPACITY).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_threads_finds_the_same(threads: int) -> None:
    rows, others = problem(7, 90, 700, 32)
    expected = screened(rows, others, 4, False)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = screened(rows, others, 4, False)
    finally:
        torch.set_num_threads(before)
    assert (found.counts == expected.counts).all() and (found.floors == expected.floors).all()
