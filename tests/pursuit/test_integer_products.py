"""Products of 8-bit integers are exact, and their rounding is unbiased."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_omp.pursuit import compiled
from mergekit_omp.pursuit.integer_products import ATOMS, RESIDUALS, multiply, pack, rows_for
from mergekit_omp.pursuit.rounding import SHIFT, STEPS, round_rows

Products = Callable[..., int]


def products_of(residuals, tile, correction, limits, out):  # type: ignore[no-untyped-def]
    return multiply(residuals, tile, correction, limits, out)


# As it was written, and as it is emitted.
forms = pytest.mark.parametrize(
    "products_of",
    [products_of, compiled.kernel(products_of)],
)


@forms
@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(1, 120), dim=st.integers(1, 70), seed=st.integers(0, 999), full=st.booleans()
)
def test_products_are_those_of_wide_integers(
    products_of: Products, count: int, dim: int, seed: int, full: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    low = -STEPS if not full else STEPS
    atoms = torch.randint(low, STEPS + 1, (count, dim), generator=draw).to(torch.int8)
    values = torch.randint(low, STEPS + 1, (RESIDUALS, dim), generator=draw)
    rows = rows_for(RESIDUALS, dim)
    rows[:, :dim] = (values + SHIFT).to(torch.uint8)
    packed, correction = pack(atoms)
    expected = values @ atoms.long().T
    for tile in range(len(packed)):
        part = expected[:, tile * ATOMS : (tile + 1) * ATOMS]
        least = np.full(RESIDUALS, 0, np.int32)
        out = np.zeros((RESIDUALS, ATOMS), np.int32)
        arrays = rows.numpy(), packed[tile].numpy(), correction[tile].numpy()
        assert products_of(*arrays, least, out) == (1 << RESIDUALS) - 1
        assert np.array_equal(out[:, : part.shape[1]], part.numpy())
        assert not out[:, part.shape[1] :].any()
        largest = part.abs().amax(dim=1).numpy().astype(np.int32)
        least = largest + 1
        least[2] = largest[2]
        out[:] = -1
        assert products_of(*arrays, least, out) == 1 << 2
        assert np.array_equal(out[:, : part.shape[1]], part.numpy())


@forms
def test_nothing_is_written_where_no_product_reaches_its_limit(products_of: Products) -> None:
    packed, correction = pack(torch.ones(3, 8, dtype=torch.int8))
    rows = rows_for(RESIDUALS, 8)
    rows[:, :8] = SHIFT + 1
    out = np.full((RESIDUALS, ATOMS), 77, np.int32)
    limits = np.full(RESIDUALS, 9, np.int32)
    assert products_of(rows.numpy(), packed[0].numpy(), correction[0].numpy(), limits, out) == 0
    assert (out == 77).all()


def test_rounding_keeps_the_mean_and_is_off_by_less_than_a_step() -> None:
    draw = torch.Generator().manual_seed(1)
    row = torch.randn(1, 64, generator=draw)
    sums = torch.zeros(64)
    integers, scale = rows_for(1, 64), torch.empty(1)
    rounds = 4000
    for seed in range(rounds):
        round_rows(0, 1, row.numpy(), seed, 1e-30, integers.numpy(), scale.numpy())
        value = (integers[0].float() - SHIFT) * scale
        assert (value - row[0]).abs().max() < scale * 1.0001
        sums += value
    # Five standard deviations of the mean of so many roundings, each at most half a step.
    assert (sums / rounds - row[0]).abs().max() < 5 * 0.5 * scale / rounds**0.5


def test_two_seeds_round_independently() -> None:
    row = torch.rand(1, 4096, generator=torch.Generator().manual_seed(2)) + 0.1
    errors = []
    for seed in (1, 2):
        integers, scale = rows_for(1, 4096), torch.empty(1)
        round_rows(0, 1, row.numpy(), seed, 1e-30, integers.numpy(), scale.numpy())
        errors.append((integers[0].float() - SHIFT) * scale - row[0])
    assert not torch.equal(*errors)
    # Five standard deviations of a correlation by chance: 5 / sqrt(4096).
    together = torch.corrcoef(torch.stack(errors))[0, 1]
    assert abs(together) < 0.08
