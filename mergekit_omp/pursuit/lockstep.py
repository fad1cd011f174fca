"""Pursuit of a batch of targets in lockstep, with explicit residuals: the reference and its kin.

Orthogonal Matching Pursuit after Pati, Rezaiifar and Krishnaprasad (1993): pick the atom with the
largest inner product with the residual, project the target on all atoms picked so far, repeat.
The support's basis is kept orthonormal by Gram-Schmidt, done twice, so that it stays so. How the
largest inner product is found is left to a `Search`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from tqdm import tqdm

from mergekit_omp.kernels.threads import in_threads
from mergekit_omp.pursuit.basis import orthogonalised
from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.sparse_code import SparseCode

LOG = logging.getLogger(__package__)


class Search(ABC):
    """Finds the atom of the largest inner product, in magnitude, with each residual.

    Several threads may ask at once, so that nothing of a call is kept.
    """

    @abstractmethod
    def find(
        self, residuals: Float[Tensor, "batch dim"], barred: Bool[Tensor, "batch atoms"]
    ) -> tuple[Float[Tensor, "batch"], Int64[Tensor, "batch"]]:
        """The magnitude and the atom; of equals the first. A barred atom is not to be found."""


class Exhaustive(Search):
    """Every inner product in the working dtype."""

    def __init__(self, problem: Problem) -> None:
        self.atoms = problem.atoms

    def find(
        self, residuals: Float[Tensor, "batch dim"], barred: Bool[Tensor, "batch atoms"]
    ) -> tuple[Float[Tensor, "batch"], Int64[Tensor, "batch"]]:
        best, picks = (residuals @ self.atoms.T).abs_().masked_fill_(barred, -1).max(dim=1)
        return best, picks


def search_bytes(problem: Problem) -> int:
    """Memory that one residual takes in `Exhaustive`."""
    return len(problem.atoms) * problem.atoms.element_size()


def bytes_per_target(problem: Problem) -> int:
    """Memory that one target in flight takes beside its search: basis, factor, barred atoms."""
    atoms, dim = problem.atoms.shape
    k = problem.sparsity
    return problem.atoms.element_size() * (2 * k * dim + 2 * k * k + 8 * dim) + 3 * atoms


def threads_for(problem: Problem) -> int:
    """How many batches are solved at once."""
    return torch.get_num_threads() if problem.targets.device.type == "cpu" else 1


def solve_in_lockstep(problem: Problem, search: Search) -> SparseCode:
    """Solves all targets of a problem at once; time grows with targets x k x atoms x dim."""
    state = State(problem)
    while len(rows := state.active):
        found = search.find(_rows_of(state.residuals, rows), _rows_of(state.barred, rows))
        state.advance(rows, *found)
    return state.finish()


def in_batches(
    problem: Problem,
    solve: Callable[[Problem], SparseCode],
    batch: int,
    progress: bool = False,
    cuts: Sequence[int] | None = None,
) -> SparseCode:
    """Solves `batch` targets at a time, on a CPU in each of the threads that torch uses; half as many
    after an out-of-memory error.

    `cuts`: so many targets, one group after another, are put into batches apart from the others.
    """
    device, count = problem.targets.device, len(problem.targets)
    ends = [0, *accumulate(cuts or [count])]
    parts = [
        range(start, min(start + batch, high))
        for low, high in pairwise(ends)
        for start in range(low, high, batch)
    ]
    codes: dict[int, SparseCode] = {}
    most = batch

    def solve_parts(first: int, last: int) -> None:
        nonlocal most
        for part in parts[first:last]:
            while part:
                now = part[:most]
                rows = torch.arange(now.start, now.stop, device=device)
                try:
                    codes[now.start] = solve(problem.subset(rows))
                except torch.cuda.OutOfMemoryError:
                    if len(now) == 1:
                        raise
                    most = max(1, len(now) // 2)
                    LOG.info("out of device memory: going on with %d targets at a time", most)
                    torch.cuda.empty_cache()
                    continue
                part = part[len(now) :]
                with bar.get_lock():
                    bar.update(len(now))

    with tqdm(total=count, desc="pursuit", unit="token", disable=not progress) as bar:
        if threads_for(problem) > 1:
            # Threads with batches of their own wait for no other, but for the last.
            in_threads(solve_parts, len(parts), share=1)
        else:
            solve_parts(0, len(parts))
    return SparseCode.join([codes[start] for start in sorted(codes)])


class State:
    """A batch in flight. Rows of a tensor are targets; `active` lists those still searching."""

    def __init__(self, problem: Problem) -> None:
        targets = problem.targets
        count, dim = targets.shape
        k = problem.sparsity
        self.problem = problem
        self.residuals = targets.clone()
        self.basis = targets.new_zeros(count, k, dim)
        self.factor = targets.new_zeros(count, k, k)
        self.projections = targets.new_zeros(count, k)
        self.indices = torch.zeros(count, k, dtype=torch.int64, device=targets.device)
        self.sizes = torch.zeros(count, dtype=torch.int64, device=targets.device)
        self.barred = (~problem.usable).expand(count, -1).clone()
        self.open = problem.usable.sum().repeat(count)
        live = (problem.target_norms > torch.finfo(targets.dtype).tiny) & (k > 0)
        self.searching = live & bool(problem.usable.any())
        self.active = self.searching.nonzero().squeeze(1)

    def advance(
        self,
        rows: Int64[Tensor, "rows"],
        best: Float[Tensor, "rows"],
        picks: Int64[Tensor, "rows"],
    ) -> None:
        """Adds an atom to the supports of active targets, or bars one that cannot serve."""
        atoms = self.problem.atoms[picks]
        weights, directions = orthogonalised(self.basis, self.sizes, rows, atoms)
        heights = torch.linalg.vector_norm(directions, dim=1)
        norms = self.problem.atom_norms[picks]
        precision = self.problem.precision
        noise = precision.correlation * self.problem.target_norms[rows]
        good = (best > noise * norms) & (heights > precision.dependence * norms)
        if not bool(good.all()):
            self._bar(rows[~good], picks[~good], noise[~good])
        self._extend(rows[good], picks[good], weights[good], directions[good], heights[good])
        self.searching[rows] = self._searching(rows)
        self.active = self.searching.nonzero().squeeze(1)

    def _bar(self, rows: Tensor, picks: Tensor, noise: Tensor) -> None:
        """Bars the picks, and all atoms whose correlations are noise: else they come one by one."""
        for row, pick, level in zip(rows.tolist(), picks.tolist(), noise, strict=True):
            correlations = (self.problem.atoms @ self.residuals[row]).abs_()
            self.barred[row] |= correlations <= level * self.problem.atom_norms
            self.barred[row, pick] = True
            self.open[row] = len(self.barred[row]) - self.barred[row].sum()

    def _extend(
        self, rows: Tensor, picks: Tensor, weights: Tensor, directions: Tensor, heights: Tensor
    ) -> None:
        slots = self.sizes[rows]
        directions = directions / heights[:, None]
        lengths = (directions * self.residuals[rows]).sum(dim=1)
        self.basis[rows, slots] = directions
        self.factor[rows, : weights.shape[1], slots] = weights
        self.factor[rows, slots, slots] = heights
        self.projections[rows, slots] = lengths
        self.indices[rows, slots] = picks
        self.residuals[rows] -= lengths[:, None] * directions
        self.barred[rows, picks] = True
        self.open[rows] -= 1
        self.sizes[rows] += 1

    def _searching(self, rows: Tensor) -> Tensor:
        left = torch.linalg.vector_norm(self.residuals[rows], dim=1)
        open_slots = self.sizes[rows] < self.problem.sparsity
        unexplained = left > self.problem.tolerance * self.problem.target_norms[rows]
        return open_slots & unexplained & (self.open[rows] > 0)

    def finish(self) -> SparseCode:
        k = self.problem.sparsity
        used = torch.arange(k, device=self.sizes.device) < self.sizes[:, None]
        # A one on the diagonal of an unused slot keeps the factor invertible.
        self.factor.diagonal(dim1=1, dim2=2).masked_fill_(~used, 1)
        coefficients = _upper_solve(self.factor, self.projections)
        # One step of refinement: the residual is then that of the atoms, not of the basis.
        left = self._left_by(coefficients)
        correction = torch.einsum("bkd,bd->bk", self.basis, left)
        coefficients = coefficients + _upper_solve(self.factor, correction)
        left = self._left_by(coefficients)
        return SparseCode(self.indices, coefficients, torch.linalg.vector_norm(left, dim=1))

    def _left_by(self, coefficients: Tensor) -> Tensor:
        code = SparseCode(self.indices, coefficients, coefficients.new_zeros(len(coefficients)))
        return self.problem.targets - code.decode(self.problem.atoms)


def _rows_of(values: Tensor, rows: Tensor) -> Tensor:
    """Rows of active targets, in order; nothing is copied while all are asked for."""
    return values if len(rows) == len(values) else values[rows]


def _upper_solve(
    factor: Float[Tensor, "batch k k"], right: Float[Tensor, "batch k"]
) -> Float[Tensor, "batch k"]:
    return torch.linalg.solve_triangular(factor, right[:, :, None], upper=True).squeeze(2)
