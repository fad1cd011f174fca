"""Screened search in eight bits: integer products name candidates, the working dtype decides.

Residuals and atoms are rounded to 8-bit integers at random, up or down with the probabilities that
leave the mean where it was. The errors of a product are then independent and of mean zero whatever
the data, so that Hoeffding's inequality bounds them: a correlation is off by more than its margin
less than once in 10^10. Every atom that may have the largest is a candidate.

Worth it where a processor multiplies 8-bit integers several times faster than float32.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int8, Int64
from torch import Tensor

from mergekit_omp.pursuit import candidates, compiled
from mergekit_omp.pursuit.lockstep import Search
from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.processor import has_instructions

STEPS = 127
WIDTH = 3.5
"""Seven standard deviations of a random rounding, in steps: what scaling loses is far less."""
TILE = 1024
"""Atoms at a time: their products stay in a core's cache."""
CHUNK = 4096
"""Atoms rounded at a time."""


def available(problem: Problem) -> bool:
    """Whether this is a processor that multiplies 8-bit integers exactly and fast."""
    if not compiled.AVAILABLE or problem.atoms.device.type != "cpu":
        return False
    return hasattr(torch, "_int_mm") and has_instructions("avx512_vnni", "avx_vnni", "amx_int8")


class EightBit(Search):
    """Exhaustive search, with nearly all of the arithmetic in 8-bit integers."""

    def __init__(self, problem: Problem) -> None:
        self.atoms = problem.atoms
        self.draw = torch.Generator().manual_seed(0)
        count, dim = problem.atoms.shape
        self.coarse = torch.empty(count, dim, dtype=torch.int8)
        self.scale = torch.empty(count)
        # Neighbours of one norm can be passed over together.
        self.order = problem.atom_norms.argsort(descending=True, stable=True)
        # Only the order of correlations counts: in units of the largest norm nothing overflows.
        self.top = problem.atom_norms.amax()
        for first in range(0, count, CHUNK):
            rows = slice(first, first + CHUNK)
            self.coarse[rows], scale = self._rounded(problem.atoms[self.order[rows]])
            self.scale[rows] = scale / self.top
        self.margin = WIDTH * (problem.atom_norms[self.order] / self.top).float()

    def find(
        self, residuals: Float[Tensor, "batch dim"], barred: Bool[Tensor, "batch atoms"]
    ) -> tuple[Float[Tensor, "batch"], Int64[Tensor, "batch"]]:
        batch, count = barred.shape
        coarse, scale = self._rounded(residuals)
        lengths = torch.linalg.vector_norm(residuals, dim=1)
        scale = (scale / lengths).float()
        sizes = (
            scale.numpy(),
            np.float32(WIDTH),
            self.scale.numpy(),
            self.margin.numpy(),
            self.order.numpy(),
        )
        kept = (
            np.zeros(batch, np.float32),
            np.empty((batch, candidates.CAPACITY), np.int64),
            np.empty((batch, candidates.CAPACITY), np.float32),
            np.zeros(batch, np.int64),
        )
        best = residuals.new_empty(batch)
        found = torch.empty(batch, dtype=torch.int64)
        closed = barred.numpy()
        arrays = (residuals.numpy(), (lengths * self.top).numpy(), self.atoms.numpy())
        results = (best.numpy(), found.numpy())

        def work(first: int, last: int) -> None:
            # Each thread multiplies its own rows, so that none waits for another.
            torch.set_num_threads(1)
            rows = coarse[first:last]
            buffer = torch.empty(len(rows) * TILE, dtype=torch.int32)
            for low in range(0, count, TILE):
                tile = self.coarse[low : low + TILE]
                products = buffer[: len(rows) * len(tile)].view(len(rows), len(tile))
                # Not public, and the only product of 8-bit integers that torch has.
                torch._int_mm(rows, tile.T, out=products)
                candidates.collect(first, last, products.numpy(), low, *sizes, closed, *kept)
            candidates.decide(first, last, *arrays, closed, *kept, *results)

        threads = torch.get_num_threads()
        ends = [batch * thread // threads for thread in range(threads + 1)]
        try:
            with ThreadPoolExecutor(threads) as pool:
                shares = [share for share in pairwise(ends) if share[0] < share[1]]
                for job in [pool.submit(work, *share) for share in shares]:
                    job.result()
        finally:
            torch.set_num_threads(threads)
        return best, found

    def _rounded(
        self, rows: Float[Tensor, "rows dim"]
    ) -> tuple[Int8[Tensor, "rows dim"], Float[Tensor, "rows"]]:
        """Rows as integers times a scale, rounded up or down at random."""
        scale = (rows.abs().amax(dim=1) / STEPS).clamp_(min=torch.finfo(rows.dtype).tiny)
        steps = (rows / scale[:, None]).float()
        steps += torch.rand(steps.shape, generator=self.draw)
        return steps.floor_().clamp_(-STEPS, STEPS).to(torch.int8), scale


def search_bytes(problem: Problem) -> int:
    """Memory that one residual takes in `EightBit`."""
    dim = problem.atoms.shape[1]
    return dim * (9 + problem.atoms.element_size()) + 4 * TILE + candidates.CAPACITY * 12


def fixed_bytes(problem: Problem) -> int:
    """Memory held whatever the batch: the coarse atoms, a tile, and what rounding takes."""
    count, dim = problem.atoms.shape
    return count * (dim + 16) + min(count, CHUNK) * dim * 13
