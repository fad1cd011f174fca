"""Screened search in eight bits: integer products name candidates, the working dtype decides.

Residuals and atoms are rounded to 8-bit integers at random, up or down with the probabilities that
leave the mean where it was. The errors of a product are then independent and of mean zero whatever
the data, so that Hoeffding's inequality bounds them: a correlation is off by more than its margin
less than once in 10^10. Every atom that may have the largest is a candidate.

Worth it where a processor multiplies 8-bit integers several times faster than float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mergekit_omp.pursuit import candidates, compiled, integer_products
from mergekit_omp.pursuit.integer_products import ATOMS, RESIDUALS
from mergekit_omp.pursuit.lockstep import Search
from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.processor import has_instructions
from mergekit_omp.pursuit.rounding import SHIFT, round_rows
from mergekit_omp.pursuit.threads import in_threads

WIDTH = 3.5
"""Seven standard deviations of a random rounding, in steps: what scaling loses is far less."""
STRIP = 20 * ATOMS
"""Atoms at a time where torch multiplies: their products stay in a core's cache."""
CHUNK = 80 * ATOMS
"""Atoms rounded at a time."""


def available(problem: Problem) -> bool:
    """Whether this is a processor that multiplies 8-bit integers exactly and fast."""
    if not compiled.AVAILABLE or problem.atoms.device.type != "cpu":
        return False
    return integer_products.available() or _torch_is_fast()


def in_registers(problem: Problem) -> bool:
    """Whether our own products are the fastest here: not where there are matrix units (AMX)."""
    matrix_units = has_instructions("amx_int8") and _torch_is_fast()
    return available(problem) and integer_products.available() and not matrix_units


def _torch_is_fast() -> bool:
    return hasattr(torch, "_int_mm") and has_instructions("avx512_vnni", "avx_vnni", "amx_int8")


@dataclass(frozen=True, eq=False)
class Kept:
    """Candidates of a batch of residuals: floors, and lists of atoms with their upper bounds."""

    floors: np.ndarray
    picks: np.ndarray
    uppers: np.ndarray
    counts: np.ndarray

    @classmethod
    def empty(cls, batch: int) -> Kept:
        shape = batch, candidates.CAPACITY
        return cls(
            np.zeros(batch, np.float32),
            np.empty(shape, np.int64),
            np.empty(shape, np.float32),
            np.zeros(batch, np.int64),
        )

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.floors, self.picks, self.uppers, self.counts


class EightBit(Search):
    """Exhaustive search, with nearly all of the arithmetic in 8-bit integers.

    `by_torch` says whose products to use: by default torch's where there are matrix units (AMX),
    which it knows to use, or where ours cannot run.
    """

    def __init__(self, problem: Problem, by_torch: bool | None = None) -> None:
        if by_torch is None:
            by_torch = not in_registers(problem)
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
        self.described = (
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
        kept = Kept.empty(len(barred))
        units = self.screen(residuals, kept)
        best = residuals.new_empty(len(barred))
        found = torch.empty(len(barred), dtype=torch.int64)
        arrays = residuals.numpy(), units.numpy(), self.atoms.numpy(), barred.numpy()
        results = best.numpy(), found.numpy()

        def work(first: int, last: int) -> None:
            candidates.decide(first, last, *arrays, *kept.arrays, *results)

        in_threads(work, len(barred))
        return best, found

    def screen(self, residuals: Float[Tensor, "batch dim"], kept: Kept) -> Float[Tensor, "batch"]:
        """Fills `kept` with each residual's candidates; returns what a correlation of 1 is there."""
        integers, scale = self.rounded(residuals)
        lengths = torch.linalg.vector_norm(residuals, dim=1)
        row_scale = (scale / lengths).float().numpy()
        shared = (row_scale, self.described, *kept.arrays)

        def work(first: int, last: int) -> None:
            if self.by_torch:
                self._sweep_by_torch(first, last, integers, shared)
            else:
                packed = self.coarse.numpy(), self.correction.numpy()
                candidates.sweep(first, last, integers.numpy(), *packed, *shared)

        # Each thread multiplies its own rows, so that none waits for another.
        in_threads(work, len(residuals), RESIDUALS)
        return lengths * self.top

    def _sweep_by_torch(
        self, first: int, last: int, integers: Tensor, shared: tuple[object, ...]
    ) -> None:
        count, dim = self.coarse.shape
        rows = (integers[first:last, :dim] ^ SHIFT).view(torch.int8)
        buffer = torch.empty(len(rows) * STRIP, dtype=torch.int32)
        for low in range(0, count, STRIP):
            strip = self.coarse[low : low + STRIP]
            products = buffer[: len(rows) * len(strip)].view(len(rows), len(strip))
            # Not public, and the only product of 8-bit integers that torch has.
            torch._int_mm(rows, strip.T, out=products)
            candidates.collect_strip(first, last, products.numpy(), low, *shared)

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
