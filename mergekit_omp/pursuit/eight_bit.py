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
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from mergekit_omp.pursuit import candidates, integer_products
from mergekit_omp.pursuit.candidates import Coarse, Kept, none_kept
from mergekit_omp.pursuit.integer_products import ATOMS, RESIDUALS
from mergekit_omp.pursuit.lockstep import Search
from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.rounding import SHIFT, round_rows
from mergekit_omp.pursuit.threads import in_threads

WIDTH = 3.5
"""Seven standard deviations of a random rounding, in steps: what scaling loses is far less."""
STRIP = 20 * ATOMS
"""Atoms at a time where torch multiplies: their products stay in a core's cache."""
CHUNK = 80 * ATOMS
"""Atoms rounded at a time."""


class EightBit(Search):
    """Exhaustive search, with nearly all of the arithmetic in 8-bit integers.

    `by_torch` says whose products to use: torch's, or ours (`integer_products`).
    """

    def __init__(self, problem: Problem, by_torch: bool) -> None:
        self.atoms = problem.atoms
        self.by_torch = by_torch
        self.seed = 0
        count, dim = problem.atoms.shape
        tiles = -(-count // ATOMS)
        steps = integer_products.steps(dim)
        shape = (count, dim) if by_torch else (tiles, steps, ATOMS, integer_products.FOUR)
        # NumPy's allocations ask for huge pages, unlike torch's.
        self.coarse = torch.from_numpy(np.empty(shape, np.int8))
        self.correction = torch.empty(tiles, ATOMS, dtype=torch.int32)
        scale = torch.empty(count)
        # Neighbours of one scale can be passed over together.
        largest = torch.linalg.vector_norm(problem.atoms, ord=torch.inf, dim=1)
        order = largest.argsort(descending=True, stable=True)
        # Only the order of correlations counts: in units of the largest norm nothing overflows.
        self.top = problem.atom_norms.amax()
        for first in range(0, count, CHUNK):
            rows = slice(first, first + CHUNK)
            integers, units = self.rounded(problem.atoms[order[rows]])
            scale[rows] = units / self.top
            signed = integers[: len(units), :dim].bitwise_xor_(SHIFT)
            if by_torch:
                self.coarse[rows] = signed.view(torch.int8)
            else:
                packed, correction = integer_products.pack(signed.view(torch.int8))
                at = first // ATOMS
                self.coarse[at : at + len(packed)] = packed
                self.correction[at : at + len(packed)] = correction
        margin = WIDTH * (problem.atom_norms[order] / self.top).float()
        heads = np.arange(0, count, ATOMS)
        self.described = Coarse(
            order.numpy(),
            scale.numpy(),
            margin.numpy(),
            np.maximum.reduceat(scale.numpy(), heads),
            np.maximum.reduceat(margin.numpy(), heads),
            np.float32(WIDTH),
        )

    def find(
        self, residuals: Float[Tensor, "batch dim"], barred: Bool[Tensor, "batch atoms"]
    ) -> tuple[Float[Tensor, "batch"], Int64[Tensor, "batch"]]:
        kept = none_kept(len(barred))
        integers, scale = self.rounded(residuals)
        lengths = torch.linalg.vector_norm(residuals, dim=1)
        units = (scale / lengths).float().numpy()
        best = residuals.new_empty(len(barred))
        found = torch.empty(len(barred), dtype=torch.int64)
        given = residuals.numpy(), (lengths * self.top).numpy(), self.atoms.numpy(), barred.numpy()
        results = best.numpy(), found.numpy()

        def work(first: int, last: int) -> None:
            self._sweep(first, last, integers, units, kept)
            candidates.settle(first, last, *given, kept, *results)

        # Each thread multiplies its own rows, so that none waits for another.
        in_threads(work, len(barred), RESIDUALS)
        return best, found

    def _sweep(
        self,
        first: int,
        last: int,
        integers: UInt8[Tensor, "rows dims"],
        units: np.ndarray,
        kept: Kept,
    ) -> None:
        if not self.by_torch:
            packed = self.coarse.numpy(), self.correction.numpy()
            candidates.sweep(first, last, integers.numpy(), *packed, units, self.described, kept)
            return
        count, dim = self.coarse.shape
        rows = (integers[first:last, :dim] ^ SHIFT).view(torch.int8)
        buffer = torch.empty(len(rows) * STRIP, dtype=torch.int32)
        for low in range(0, count, STRIP):
            strip = self.coarse[low : low + STRIP]
            products = buffer[: len(rows) * len(strip)].view(len(rows), len(strip))
            # Not public, and the only product of 8-bit integers that torch has.
            torch._int_mm(rows, strip.T, out=products)
            arguments = products.numpy(), low, units, self.described, kept
            candidates.collect_strip(first, last, *arguments)

    def rounded(self, rows: Float[Tensor, "rows dim"]) -> tuple[Tensor, Float[Tensor, "rows"]]:
        """Rows as integers times a scale: `integer_products.rows_for` them, filled."""
        count, dim = rows.shape
        integers = integer_products.rows_for(count, dim)
        scale = rows.new_empty(count)
        self.seed += 1
        arguments = (
            rows.numpy(),
            self.seed,
            torch.finfo(rows.dtype).tiny,
            integers.numpy(),
            scale.numpy(),
        )
        in_threads(lambda first, last: round_rows(first, last, *arguments), count)
        return integers, scale


def search_bytes(problem: Problem) -> int:
    """Memory that one residual takes in `EightBit`."""
    dim = problem.atoms.shape[1]
    return 2 * dim + 4 * STRIP + candidates.CAPACITY * 12


def fixed_bytes(problem: Problem) -> int:
    """Memory held whatever the batch: the coarse atoms, a tile, and what rounding takes."""
    count, dim = problem.atoms.shape
    scalar = problem.atoms.element_size()
    return count * (dim + 20) + min(count, CHUNK) * dim * (3 + scalar)
