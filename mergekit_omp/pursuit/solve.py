"""The one entry point of a pursuit: `orthogonal_matching_pursuit`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mergekit_omp.pursuit import reference
from mergekit_omp.pursuit.problem import prepare
from mergekit_omp.pursuit.sparse_code import SparseCode


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
    """Writes each target as a combination of at most `k` atoms (see `SparseCode`).

    Inner products are taken with the atoms as they are; normalise them first for cosines.
    Works in float32, in float64 where an input is; the result has that dtype.
    """
    problem = prepare(targets, atoms, k, tolerance)
    batch = max(1, min(512, (memory or 1 << 30) // reference.bytes_per_target(problem)))
    return reference.solve_by_reference(problem, batch, progress)
