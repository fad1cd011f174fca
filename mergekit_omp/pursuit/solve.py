"""The one entry point of a pursuit: `orthogonal_matching_pursuit`."""

from __future__ import annotations

import logging

from jaxtyping import Float
from torch import Tensor

from mergekit_omp.pursuit import gram
from mergekit_omp.pursuit.batches import in_batches
from mergekit_omp.pursuit.choice import Plan, check_search, choose
from mergekit_omp.pursuit.lockstep import Exhaustive, Search, solve_in_lockstep
from mergekit_omp.pursuit.problem import Problem, prepare
from mergekit_omp.pursuit.screened import Screened
from mergekit_omp.pursuit.sparse_code import SparseCode

LOG = logging.getLogger(__name__)


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

    search: all give the same supports, up to ties in the working dtype, except "fast".
        "auto": the cheapest of the exact ones that fits the memory;
        "reference": every inner product at every iteration;
        "screened": the same, with bfloat16 products to name candidates;
        "gram": Batch-OMP on a precomputed Gram matrix (a CPU, and Numba);
        "fast": that, restricted to shortlists of atoms: other supports, similar residuals.
    memory: bytes that the search may take beside the inputs; by default most of what is free.

    Raises ValueError for non-finite targets, shapes or devices that disagree, `k` below 1, an
    unknown `search`, or a `memory` that nothing fits; TypeError for arguments of a wrong type.
    """
    check_search(search)
    problem = prepare(targets, atoms, k, tolerance)
    if not (problem.sparsity and len(problem.targets)):
        return SparseCode.empty(problem.targets, problem.sparsity)
    plan = choose(problem, search, memory)
    if plan.search == "gram":
        return _by_gram(problem, plan, memory, progress)
    return _in_lockstep(problem, plan, progress)


def _in_lockstep(problem: Problem, plan: Plan, progress: bool) -> SparseCode:
    search: Search = Screened(problem) if plan.search == "screened" else Exhaustive(problem)
    return in_batches(
        problem, lambda part: solve_in_lockstep(part, search), plan.batch, progress=progress
    )


def _by_gram(problem: Problem, plan: Plan, memory: int | None, progress: bool) -> SparseCode:
    assert plan.gram is not None
    speculation = gram.EXACT if plan.verified else gram.FAST
    table = gram.build(problem, plan.gram)
    code, hard = gram.solve_by_gram(problem, table, plan.batch, speculation, progress)
    del table
    if len(hard):
        LOG.debug("%d targets need more precision than a Gram matrix gives", len(hard))
        rest = problem.subset(hard)
        code = code.replaced(hard, _in_lockstep(rest, choose(rest, "reference", memory), progress))
    return code
