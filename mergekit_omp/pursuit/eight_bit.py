"""Screened search in eight bits: integer products name candidates, the working dtype decides.

Residuals and atoms are rounded to 8-bit integers at random, up or down with the probabilities that
leave the mean where it was. The errors of a product are then independent and of mean zero whatever
the data, so that a correlation is off by more than its margin less than once in 10^10
(docs/pursuit-bounds.md). Every atom that may have the largest is a candidate.

Worth it where a processor multiplies 8-bit integers several times faster than float32.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mergekit_omp.kernels.threads import in_threads
from mergekit_omp.pursuit.candidates import CAPACITY, STRIP, Coarse, screen
from mergekit_omp.pursuit.decision import decide_rows
from mergekit_omp.pursuit.lockstep import Exhaustive, Search
from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.rounding import rounded

CHUNK = 4096
"""Atoms rounded at a time."""


class EightBit(Search):
    """Exhaustive search, with nearly all of the arithmetic in 8-bit integers."""

    def __init__(self, problem: Problem) -> None:
        self.atoms, self.exhaustive = problem.atoms, Exhaustive(problem)
        count, dim = problem.atoms.shape
        # NumPy's allocations ask for huge pages, unlike torch's.
        self.integers = torch.from_numpy(np.empty((count, dim), np.int8))
        scales = torch.empty(count)
        # Only the order of correlations counts: in units of the largest norm nothing overflows.
        self.top = problem.atom_norms.amax()
        for first in range(0, count, CHUNK):
            part = slice(first, first + CHUNK)
            self.integers[part], units = rounded(problem.atoms[part], seed=1 + first)
            scales[part] = units / self.top
        self.coarse = Coarse.of(scales, problem.atom_norms / self.top)

    def find(
        self, residuals: Float[Tensor, "batch dim"], barred: Bool[Tensor, "batch atoms"]
    ) -> tuple[Float[Tensor, "batch"], Int64[Tensor, "batch"]]:
        # The same bits at each iteration: atoms found do not depend on them, nor do residuals.
        integers, scales = rounded(residuals, seed=0)
        lengths = torch.linalg.vector_norm(residuals, dim=1)
        coarse = (scales / lengths).float(), self.integers, self.coarse
        kept = screen(integers, *coarse, magnitudes=True)
        # In float64: the product of two small numbers may be none of float32.
        units = scales.double() * self.top.double()
        best = residuals.new_zeros(len(residuals))
        found = torch.zeros(len(residuals), dtype=torch.int64)
        given = (units, barred, self.atoms, residuals, best, found)
        arguments = [tensor.numpy() for tensor in given]
        in_threads(lambda first, last: decide_rows(first, last, kept, *arguments), len(barred))
        # Candidates were lost, or a barred atom set the floor.
        again = torch.from_numpy(kept.counts) > CAPACITY
        again |= best < torch.from_numpy(kept.floors) * units
        if again.any():
            best[again], found[again] = self.exhaustive.find(residuals[again], barred[again])
        return best, found


def search_bytes(problem: Problem) -> int:
    """Memory that one residual takes in `EightBit`."""
    return problem.atoms.shape[1] + 4 * STRIP + CAPACITY * 12


def fixed_bytes(problem: Problem) -> int:
    """Memory held whatever the batch: the coarse atoms, and what rounding takes."""
    count, dim = problem.atoms.shape
    rounding = min(count, CHUNK) * dim * (1 + problem.atoms.element_size())
    return count * (dim + 8) + rounding
