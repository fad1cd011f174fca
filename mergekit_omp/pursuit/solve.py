"""The one entry point of a pursuit: `orthogonal_matching_pursuit`."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mergekit_omp.kernels import compiled
from mergekit_omp.pursuit.bfloat16 import Bfloat16
from mergekit_omp.pursuit.choice import Plan, check_search, choose, without_gram
from mergekit_omp.pursuit.cuts import BLOCK
from mergekit_omp.pursuit.eight_bit import EightBit
from mergekit_omp.pursuit.gram import build, solve_by_gram
from mergekit_omp.pursuit.lockstep import Exhaustive, Search, in_batches, solve_in_lockstep
from mergekit_omp.pursuit.problem import Problem, prepare
from mergekit_omp.pursuit.sparse_code import SparseCode
from mergekit_omp.pursuit.ways import Way
from mergekit_omp.pursuit.workspace import Gram

LOG = logging.getLogger(__package__)


def orthogonal_matching_pursuit(
    targets: Float[Tensor, "targets dim"],
    atoms: Float[Tensor, "atoms dim"],
    k: int = 64,
    *,
    tolerance: float | None = None,
    search: str = "auto",
    memory: int | None = None,
    progress: bool = False,
) -> SparseCode:
    """Writes each target as a combination of at most `k` atoms, chosen greedily.

    Orthogonal Matching Pursuit (Pati, Rezaiifar and Krishnaprasad 1993): the atom whose inner
    product with the residual is the largest in magnitude joins the support, and the coefficients
    are those of least squares on the support. Atoms are taken as they are; normalise their rows
    first to choose by cosine. A target stops early when its residual, relative to its own norm,
    is at most `tolerance` (by default what rounding leaves: 1e-5 in float32, 1e-12 in float64).

    Works in float32, or float64 where an input is, and returns that dtype on the inputs' device.
    `k` is clamped to the number of atoms and the dimension, with a warning. Zero, non-finite and
    linearly dependent atoms are never chosen; a zero target has an empty support.

    `search` says how atoms are looked for. All ways give the same supports, up to ties in the
    working dtype, but for `"fast"`:

    - `"auto"`: the cheapest of the exact ones that fits the memory;
    - `"reference"`: every inner product at every iteration;
    - `"screened"`: the same, with products of 8-bit integers or bfloat16 to name candidates;
    - `"gram"`: Batch-OMP on a precomputed Gram matrix (a CPU, and Numba);
    - `"fast"`: the same without the check that no atom was overlooked: other supports, similar
      residuals; where it cannot run, as `"auto"`.

    `memory` is how many bytes the search may take beside the inputs; by default most of what is
    free.

    Raises ValueError for non-finite targets, shapes or devices that disagree, `k` below 1, an
    unknown `search`, or a `memory` that nothing fits; TypeError for arguments of a wrong type.
    """
    check_search(search)
    problem = prepare(targets, atoms, k, tolerance)
    if not (problem.sparsity and len(problem.targets)):
        return SparseCode.empty(problem.targets, problem.sparsity)
    return solve_planned(problem, choose(problem, search, memory), progress=progress)


def solve_planned(
    problem: Problem, plan: Plan, *, table: Gram | None = None, progress: bool = False
) -> SparseCode:
    """Solves as a plan says; `table` is the Gram matrix that it asks for, if already built."""
    with compiled.telling(progress):
        if plan.gram is None:
            return _in_lockstep(problem, plan, progress)
        table = table or build(problem, plan.gram)
        code, hard = solve_by_gram(problem, table, plan.batch, plan.verified, progress)
        if not len(hard):
            return code
        LOG.debug("%d targets need more precision than a Gram matrix gives", len(hard))
        rest = problem.subset(hard)
        cuts = torch.bincount(hard // BLOCK).tolist()
        left = _in_lockstep(rest, without_gram(rest, plan.bytes), progress, cuts)
        return code.replaced(hard, left)


def search_by(problem: Problem, way: Way) -> Search:
    """What finds atoms in one of the ways, but for that of a Gram matrix."""
    if way is Way.FLOAT:
        return Exhaustive(problem)
    if way is Way.BFLOAT16:
        return Bfloat16(problem)
    return EightBit(problem)


def _in_lockstep(
    problem: Problem, plan: Plan, progress: bool, cuts: Sequence[int] | None = None
) -> SparseCode:
    """`cuts` as of `in_batches`."""
    search = search_by(problem, plan.way)
    # Compiles what has to be, so that the bar tells how fast the rest is.
    solve_in_lockstep(problem.sample(), search)
    return in_batches(
        problem,
        lambda part: solve_in_lockstep(part, search),
        plan.batch,
        progress=progress,
        cuts=cuts,
    )
