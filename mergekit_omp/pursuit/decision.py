"""Which of some candidates has the largest correlation with a residual: decided exactly.

Searches compute correlations coarsely, with bounds of their errors (docs/pursuit-bounds.md), and
leave a few candidates that may have the largest. These are decided here, in the working dtype.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from mergekit_omp.kernels.compiled import kernel
from mergekit_omp.pursuit.candidates import Kept
from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.tiles import dot

PAIRS = 2048
"""Candidates decided at once by torch."""


@kernel
def decide(
    picks: Int64[np.ndarray, "capacity"],
    uppers: Float[np.ndarray, "capacity"],
    count: int,
    atoms: Float[np.ndarray, "atoms dim"],
    residual: Float[np.ndarray, "dim"],
    best: float,
    unit: float,
) -> tuple[int, float]:
    """The place of the candidate with the largest correlation, and that correlation, signed.

    Only candidates whose magnitude is above `best` count; the place is -1 where there is none. Of
    equals it is the first atom. `uppers`, times `unit`, are upper bounds of magnitudes.
    """
    place, correlation = -1, 0.0
    likely = 0
    for x in range(count):
        if uppers[x] > uppers[likely]:
            likely = x
    # The most promising first: what it turns out to be rules out most others.
    for x in range(-1 if count else 0, count):
        at = likely if x < 0 else x
        if uppers[at] * unit < best:
            continue
        value = float(dot(atoms[picks[at]], residual))
        if abs(value) > best or (abs(value) == best and place >= 0 and picks[at] < picks[place]):
            place, correlation, best = at, value, abs(value)
    return place, correlation


@kernel
def decide_rows(
    first: int,
    last: int,
    kept: Kept,
    units: Float64[np.ndarray, "batch"],
    barred: Bool[np.ndarray, "batch atoms"],
    atoms: Float[np.ndarray, "atoms dim"],
    residuals: Float[np.ndarray, "batch dim"],
    best: Float[np.ndarray, "batch"],
    found: Int64[np.ndarray, "batch"],
) -> None:
    """The same for residuals `first` to `last`, with a unit each: the largest magnitudes,
    and the atoms. A residual without candidates keeps what it has."""
    for row in range(first, last):
        picks, uppers, count = kept.picks[row], kept.uppers[row], 0
        for x in range(min(kept.counts[row], picks.shape[0])):
            if not barred[row, picks[x]]:
                picks[count], uppers[count] = picks[x], uppers[x]
                count += 1
        place, value = decide(picks, uppers, count, atoms, residuals[row], best[row], units[row])
        if place >= 0:
            found[row], best[row] = picks[place], abs(value)


def bytes_at_once(problem: Problem) -> int:
    """Memory that deciding by torch takes in one thread."""
    return PAIRS * problem.atoms.shape[1] * problem.atoms.element_size() * 3


def decide_pairs(
    rows: Int64[Tensor, "pairs"],
    picks: Int64[Tensor, "pairs"],
    atoms: Float[Tensor, "atoms dim"],
    residuals: Float[Tensor, "batch dim"],
) -> tuple[Float[Tensor, "batch"], Int64[Tensor, "batch"]]:
    """The same by torch, on any device.

    Candidate i is atom `picks[i]` for residual `rows[i]`; a residual without any gets 0 and atom 0.
    """
    sizes = residuals.new_zeros(len(rows))
    for at in range(0, len(rows), PAIRS):
        some = slice(at, at + PAIRS)
        products = residuals[rows[some]] * atoms[picks[some]]
        sizes[some] = products.sum(dim=1).abs_()
    best = residuals.new_zeros(len(residuals)).scatter_reduce_(0, rows, sizes, "amax")
    winners = torch.where(sizes == best[rows], picks, len(atoms))
    found = torch.full((len(residuals),), len(atoms), device=rows.device)
    found.scatter_reduce_(0, rows, winners, "amin")
    return best, torch.where(found == len(atoms), 0, found)
