"""The one entry point of a pursuit: `orthogonal_matching_pursuit`."""

from __future__ import annotations

import logging

from jaxtyping import Float
from torch import Tensor

from mergekit_omp.pursuit.batches import in_batches
from mergekit_omp.pursuit.choice import Plan, check_search, choose, lockstep_batch
from mergekit_omp.pursuit.eight_bit import EightBit
from mergekit_omp.pursuit.eight_bit import available as has_eight_bit
from mergekit_omp.pursuit.gram import EXACT, FAST, Gram, build, solve_by_gram
from mergekit_omp.pursuit.lockstep import Exhaustive, Search, solve_in_lockstep
from mergekit_omp.pursuit.problem import Problem, prepare
from mergekit_omp.pursuit.screened import Screened
from mergekit_omp.pursuit.sparse_code import SparseCode

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
    if plan.gram is None:
        return _in_lockstep(problem, _search(problem, plan.search), plan.batch, progress)
    speculation = EXACT if plan.verified else FAST
    code, hard = solve_by_gram(
        problem, table or build(problem, plan.gram), plan.batch, speculation, progress
    )
    if not len(hard):
        return code
    LOG.debug("%d targets need more precision than a Gram matrix gives", len(hard))
    rest = problem.subset(hard)
    name = "screened" if has_eight_bit(rest) else "reference"
    batch = lockstep_batch(rest, name, plan.bytes)
    return code.replaced(hard, _in_lockstep(rest, _search(rest, name), batch, progress))


def _search(problem: Problem, name: str) -> Search:
    if name == "reference":
        return Exhaustive(problem)
    return EightBit(problem) if has_eight_bit(problem) else Screened(problem)


def _in_lockstep(problem: Problem, search: Search, batch: int, progress: bool) -> SparseCode:
    return in_batches(
        problem, lambda part: solve_in_lockstep(part, search), batch, progress=progress
    )
