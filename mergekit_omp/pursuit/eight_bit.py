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

from mergekit_omp.pursuit.candidates import CAPACITY, Coarse, Kept, collect
from mergekit_omp.pursuit.decision import decide_pairs
from mergekit_omp.pursuit.lockstep import Exhaustive, Search
from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.rounding import WIDTH, rounded
from mergekit_omp.pursuit.threads import in_threads

STRIP = 512
"""Atoms multiplied at a time: their products stay in a core's cache."""
CHUNK = 4096
"""Atoms rounded at a time."""


class EightBit(Search):
    """Exhaustive search, with nearly all of the arithmetic in 8-bit integers."""

    def __init__(self, problem: Problem) -> None:
        self.atoms, self.exhaustive = problem.atoms, Exhaustive(problem)
        count, dim = problem.atoms.shape
        # NumPy's allocations ask for huge pages, unlike torch's.
        self.coarse = torch.from_numpy(np.empty((count, dim), np.int8))
        scale = torch.empty(count)
        # Only the order of correlations counts: in units of the largest norm nothing overflows.
        self.top = problem.atom_norms.amax()
        for first in range(0, count, CHUNK):
            part = slice(first, first + CHUNK)
            self.coarse[part], units = rounded(problem.atoms[part], seed=1 + first)
            scale[part] = units / self.top
        margin = WIDTH * (problem.atom_norms / self.top).float()
        self.described = Coarse(scale.numpy(), margin.numpy(), np.float32(WIDTH))

    def find(
        self, residuals: Float[Tensor, "batch dim"], barred: Bool[Tensor, "batch atoms"]
    ) -> tuple[Float[Tensor, "batch"], Int64[Tensor, "batch"]]:
        batch, shape = len(barred), (len(barred), CAPACITY)
        empty = np.empty(shape, np.int64), np.empty(shape, np.float32)
        kept = Kept(np.zeros(batch, np.float32), *empty, np.zeros(batch, np.int64))
        # The same bits at each iteration: atoms found do not depend on them, nor do residuals.
        integers, scale = rounded(residuals, seed=0)
        lengths = torch.linalg.vector_norm(residuals, dim=1)
        units = (scale / lengths).float().numpy()

        def work(first: int, last: int) -> None:
            rows = integers[first:last]
            room = torch.empty(len(rows) * STRIP, dtype=torch.int32)
            for low in range(0, len(self.coarse), STRIP):
                strip = self.coarse[low : low + STRIP]
                products = room[: len(rows) * len(strip)].view(len(rows), len(strip))
                # Not public, and the only product of 8-bit integers that torch has.
                torch._int_mm(rows, strip.T, out=products)
                collect(first, products.numpy(), low, units, self.described, kept)

        # Each thread multiplies its own rows, so that none waits for another.
        in_threads(work, batch)
        floors, picks, uppers, counts = (torch.from_numpy(values) for values in kept)
        rows, places = (uppers >= floors[:, None]).nonzero(as_tuple=True)
        held = places < counts[rows]
        rows, picks = rows[held], picks[rows[held], places[held]]
        free = ~barred[rows, picks]
        best, found = decide_pairs(rows[free], picks[free], self.atoms, residuals)
        # Candidates were lost, or a barred atom set the floor.
        again = (counts > CAPACITY) | (best < floors * (lengths * self.top))
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
