"""Rounding to 8-bit integers is unbiased, and independent from seed to seed."""

from __future__ import annotations

import torch

from mergekit_omp.pursuit.rounding import rounded


def test_rounding_keeps_the_mean_and_is_off_by_less_than_a_step() -> None:
    draw = torch.Generator().manual_seed(1)
    row = torch.randn(1, 64, generator=draw)
    sums = torch.zeros(64)
    rounds = 4000
    for seed in range(rounds):
        integers, scale = rounded(row, seed)
        value = integers[0].float() * scale
        assert (value - row[0]).abs().max() < scale * 1.0001
        sums += value
    # Five standard deviations of the mean of so many roundings, each at most half a step.
    assert (sums / rounds - row[0]).abs().max() < 5 * 0.5 * scale / rounds**0.5


def test_two_seeds_round_independently() -> None:
    row = torch.rand(1, 4096, generator=torch.Generator().manual_seed(2)) + 0.1
    errors = []
    for seed in (1, 2):
        integers, scale = rounded(row, seed)
        errors.append(integers[0].float() * scale - row[0])
    assert not torch.equal(*errors)
    # Five standard deviations of a correlation by chance: 5 / sqrt(4096).
    together = torch.corrcoef(torch.stack(errors))[0, 1]
    assert abs(together) < 0.08
