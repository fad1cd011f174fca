"""Pursuit on a precomputed Gram matrix: builds it, and spreads targets over threads (`blocks`)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mergekit_omp.pursuit import blocks
from mergekit_omp.pursuit.compiled import kernel
from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.sparse_code import SparseCode
from mergekit_omp.pursuit.threads import in_threads

PANEL = 2048
"""Rows of the Gram matrix computed at once."""
BLOCK = 64
"""Rows and columns of a panel that stay in the nearest cache while they are mirrored."""
SHARE = 4
"""Targets that a thread takes at a time."""

LIMITS = {
    torch.float32: np.array([1e-3, 1e-5, 1e-5]),
    torch.float64: np.array([1e-9, 1e-12, 1e-12]),
}
"""Squared sine, squared relative residual and cosine below which a Gram matrix misleads."""

STEPS = {torch.int8: 127, torch.int16: 32767}
"""Fixed-point Gram matrices hold cosines, in this many steps from 0 to 1."""


@dataclass(frozen=True, eq=False)
class Gram:
    """Inner products of all atoms: entry i, j is `row_scale[i] * values[i, j] * column_scale[j]`.

    Rows of `values` are longer than the atoms are many, so that rows do not share cache sets.
    `rounding` bounds the error of an entry relative to the norms of its atoms; 0 if negligible.
    """

    values: np.ndarray
    row_scale: np.ndarray
    column_scale: np.ndarray
    rounding: float


def row_length(atoms: int) -> int:
    """Entries in a row of a Gram matrix in memory: an odd number of cache lines."""
    return (atoms + 31) // 32 * 32 + 16


def bytes_of(problem: Problem, dtype: torch.dtype) -> int:
    """Memory of the Gram matrix in a dtype, of a panel of it and of what `build` needs."""
    count, dim = problem.atoms.shape
    scalar = problem.atoms.element_size()
    units = count * dim * scalar if dtype in STEPS else 0
    return count * row_length(count) * dtype.itemsize + units + 3 * PANEL * PANEL * scalar


def build(problem: Problem, dtype: torch.dtype) -> Gram:
    """The Gram matrix in the working dtype, or as cosines in int16 or int8."""
    atoms, norms = problem.atoms, problem.atom_norms
    count = len(atoms)
    steps = STEPS.get(dtype)
    if steps:
        atoms = atoms / norms.clamp(min=torch.finfo(norms.dtype).tiny)[:, None]
    # NumPy's allocations ask for huge pages, which the scattered reads of a pursuit thank for.
    values = np.empty((count, row_length(count)), str(dtype).removeprefix("torch."))
    table = torch.from_numpy(values)[:, :count]
    for top in range(0, count, PANEL):
        bottom = min(top + PANEL, count)
        for left in range(top, count, PANEL):
            right = min(left + PANEL, count)
            part = atoms[top:bottom] @ atoms[left:right].T
            if steps:
                fixed = partial(fix, part=part.numpy(), steps=steps, corner=(top, left), out=values)
                in_threads(fixed, len(part), BLOCK)
                continue
            table[top:bottom, left:right] = part
            if left > top:
                table[left:right, top:bottom] = part.T
    if steps:
        # Half a step, and a twentieth of that for the float32 products.
        scale = (norms / steps).numpy()
        return Gram(values, scale, norms.numpy(), 0.525 / steps)
    ones = np.ones(count, values.dtype)
    return Gram(values, ones, ones, 0.0)


@kernel
def fix(first, last, part, steps, corner, out):  # type: ignore[no-untyped-def]
    """Rows `first` to `last` of a panel, and their mirror image, in so many steps from 0 to 1."""
    top, left = corner
    scale = part.dtype.type(steps)
    half = part.dtype.type(0.5)
    for begin in range(first, last, BLOCK):
        end = min(begin + BLOCK, last)
        for low in range(0, part.shape[1], BLOCK):
            high = min(low + BLOCK, part.shape[1])
            for i in range(begin, end):
                line, row = part[i, low:high], out[top + i, left + low : left + high]
                for x in range(line.shape[0]):
                    value = min(max(line[x] * scale, -scale), scale)
                    row[x] = np.int32(value + (half if value > 0 else -half))
            if top == left:
                continue
            for j in range(low, high):
                row = out[left + j, top + begin : top + end]
                column = out[top + begin : top + end, left + j]
                for x in range(row.shape[0]):
                    row[x] = column[x]


@dataclass(frozen=True)
class Blocks:
    """How far a pursuit speculates; see `blocks.pursue`."""

    longest: int
    listed: int
    verified: bool


EXACT = Blocks(longest=16, listed=1024, verified=True)
FAST = Blocks(longest=16, listed=1024, verified=False)


def solve_by_gram(
    problem: Problem,
    gram: Gram,
    chunk: int,
    speculation: Blocks = EXACT,
    progress: bool = False,
) -> tuple[SparseCode, Tensor]:
    """Solves `chunk` targets at a time, in as many threads as torch uses.

    Returns the code, and the rows that the Gram matrix is not precise enough for: those whose
    residual vanishes or whose support is nearly dependent. Their rows of the code are void.
    """
    count, sparsity = len(problem.targets), problem.sparsity
    dtype = problem.atoms.dtype
    code = SparseCode(
        indices=torch.zeros(count, sparsity, dtype=torch.int64),
        coefficients=torch.zeros(count, sparsity, dtype=dtype),
        residual_norms=torch.zeros(count, dtype=dtype),
    )
    states = torch.zeros(count, dtype=torch.int64)
    threads = torch.get_num_threads()
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=count, desc="pursuit", unit="token", disable=not progress) as bar,
    ):
        for start in range(0, count, chunk):
            rows = slice(start, min(start + chunk, count))
            targets = problem.targets[rows]
            starts = targets @ problem.atoms.T
            arguments = (
                targets.numpy(),
                problem.atoms.numpy(),
                starts.numpy(),
                gram.values,
                gram.rounding,
                gram.row_scale,
                gram.column_scale,
                problem.atom_norms.numpy(),
                problem.tolerance,
                LIMITS[dtype],
                speculation.longest,
                speculation.listed,
                speculation.verified,
                code.indices[rows].numpy(),
                code.coefficients[rows].numpy(),
                code.residual_norms[rows].numpy(),
                states[rows].numpy(),
            )
            jobs = {
                pool.submit(blocks.pursue, first, last, *arguments): last - first
                for first, last in _shares(len(targets))
            }
            for job in as_completed(jobs):
                job.result()
                bar.update(jobs[job])
    return code, (states == blocks.HARD).nonzero().squeeze(1)


def _shares(count: int) -> Iterator[tuple[int, int]]:
    for first in range(0, count, SHARE):
        yield first, min(first + SHARE, count)
