"""Pursuit on a precomputed Gram matrix: builds it, and spreads targets over threads (`blocks`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from tqdm import tqdm

from mergekit_omp.kernels.compiled import kernel
from mergekit_omp.kernels.threads import in_threads
from mergekit_omp.pursuit import blocks
from mergekit_omp.pursuit.bfloat16 import fits, short_factors
from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.sparse_code import SparseCode
from mergekit_omp.pursuit.workspace import Given, Gram, Limits, Outcome, Solved

LOG = logging.getLogger(__package__)

PANEL = 512
"""Rows of the Gram matrix computed at once."""
SHARE = 4
"""Targets that a thread takes at a time."""

LONGEST, LISTED = 16, 1024
"""Iterations of a block and atoms on a shortlist, by `benchmarks/costs.py --blocks` at 32,768 atoms,
2,048 dimensions and k = 64: the fastest on Zen 4, and on a Xeon with AMX (2026-11-26, busy: 6.0 ms of
a core; 7.9 with 8 and 1,024; 8.3 with 16 and 512)."""
LIMITS = {
    torch.float32: Limits(1e-3, 1e-5, 1e-5, LONGEST, LISTED, verified=True),
    torch.float64: Limits(1e-9, 1e-12, 1e-12, LONGEST, LISTED, verified=True),
}

STEPS = {torch.int8: 127, torch.int16: 32767}
"""Fixed-point Gram matrices hold cosines, in this many steps from 0 to 1."""


def row_length(atoms: int) -> int:
    """Entries in a row of a Gram matrix in memory: an odd number of cache lines."""
    return (atoms + 31) // 32 * 32 + 16


def bytes_of(problem: Problem, dtype: torch.dtype) -> int:
    """Memory of the Gram matrix in a dtype, and of the unit rows and panels that `build` needs."""
    count, dim = problem.atoms.shape
    scalar = problem.atoms.element_size()
    held = count * row_length(count) * dtype.itemsize
    return held + count * (dim + min(count, PANEL)) * scalar


def build(problem: Problem, dtype: torch.dtype) -> Gram:
    """The Gram matrix, as cosines in int16 or int8."""
    divisors = problem.divisors
    lengths = 2 * torch.frexp(divisors)[0]
    # Divided by powers of two, which changes no digit: nothing overflows, nor is lost.
    units = problem.atoms / (divisors / lengths)[:, None]
    count, steps = len(units), STEPS[dtype]
    # NumPy's allocations ask for huge pages, which the scattered reads of a pursuit thank for.
    values = np.empty((count, row_length(count)), str(dtype).removeprefix("torch."))
    inverse = lengths.reciprocal().numpy()
    # One for all panels: of many, the allocator keeps some that are free.
    room = units.new_empty(min(count, PANEL) * count)
    short = fits(units)
    for top in range(0, count, PANEL):
        rows, others = units[top : top + PANEL], units[top:]
        products = room[: len(rows) * len(others)].view(len(rows), len(others))
        with short_factors(short):
            torch.mm(rows, others.T, out=products)
        panel = products.numpy(), inverse[top:], steps, values[top:, top:]
        in_threads(partial(tabulate, *panel), len(rows))
    # Half a step, and a twentieth of that for the float32 products.
    return Gram(values, (problem.atom_norms / steps).numpy(), 0.525 / steps, short)


@kernel
def tabulate(
    products: Float[np.ndarray, "rows columns"],
    inverse: Float[np.ndarray, "columns"],
    steps: int,
    table: Int[np.ndarray, "columns row"],
    first: int,
    last: int,
) -> None:
    """Writes products of rows `first` to `last` as cosines, and turned over below the last row.

    `inverse` are reciprocal norms of the columns, the first of which are the rows.
    """
    top = products.dtype.type(steps)
    for i in range(first, last):
        line, out, scale = products[i], table[i], inverse[i] * top
        for j in range(line.shape[0]):
            value = np.rint(line[j] * (scale * inverse[j]))
            value = value if value < top else top
            out[j] = np.int32(value if value > -top else -top)
    for j in range(products.shape[0], products.shape[1]):
        out = table[j, first:last]
        for i in range(last - first):
            out[i] = table[first + i, j]


def solve_by_gram(
    problem: Problem, gram: Gram, batch: int, verified: bool = True, progress: bool = False
) -> tuple[SparseCode, Int64[Tensor, "hard"]]:
    """Solves `batch` targets at a time, in as many threads as torch uses.

    Returns the code, and the targets that the Gram matrix is not precise enough for, whose rows
    are void.
    """
    count = len(problem.targets)
    code = SparseCode.empty(problem.targets, problem.sparsity)
    outcomes = torch.zeros(count, dtype=torch.int64)
    limits = LIMITS[problem.atoms.dtype]._replace(verified=verified)
    atoms, norms = problem.atoms.numpy(), problem.atom_norms.numpy()
    room = problem.atoms.new_empty(min(batch, count), len(problem.atoms))

    def work_on(rows: slice) -> Callable[[int, int], None]:
        targets = problem.targets[rows]
        with short_factors(gram.short and fits(targets)):
            starts = torch.mm(targets, problem.atoms.T, out=room[: len(targets)])
        starts.div_(problem.divisors)
        given = Given(targets.numpy(), starts.numpy(), atoms, norms, gram, problem.tolerance)
        results = (code.indices, code.coefficients, code.residual_norms, outcomes)
        solved = Solved(*(tensor[rows].numpy() for tensor in results))
        return lambda first, last: blocks.pursue(first, last, given, limits, solved)

    # Compiles what has to be, so that the bar tells how fast the rest is.
    work_on(slice(0, 1))(0, 0)
    with tqdm(total=count, desc="pursuit", unit="token", disable=not progress) as bar:
        for start in range(0, count, batch):
            rows = slice(start, min(start + batch, count))
            in_threads(work_on(rows), rows.stop - start, share=SHARE, done=bar.update)
    for outcome, many in zip(*outcomes.unique(return_counts=True), strict=True):
        LOG.debug("%d targets: %s", int(many), Outcome(int(outcome)).name.lower())
    return code, (outcomes != Outcome.SOLVED).nonzero().squeeze(1)
