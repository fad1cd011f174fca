"""The reference pursuit: residuals kept explicitly, every product in the working dtype.

Orthogonal Matching Pursuit after Pati, Rezaiifar and Krishnaprasad (1993): pick the atom with the
largest inner product with the residual, project the target on all atoms picked so far, repeat.
The support's basis is kept orthonormal by Gram-Schmidt, done twice, so that it stays so.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.sparse_code import SparseCode


def bytes_per_target(problem: Problem) -> int:
    """Memory that one target in flight takes: its correlations, basis and factor."""
    atoms, dim = problem.atoms.shape
    k = problem.sparsity
    scalar = problem.atoms.element_size()
    return scalar * (2 * atoms + 2 * k * dim + k * k + 4 * dim) + 2 * atoms


def solve_by_reference(problem: Problem, batch: int, progress: bool = False) -> SparseCode:
    """Solves `batch` targets at a time; time grows with targets x k x atoms x dim."""
    codes = []
    rows = len(problem.targets)
    with tqdm(total=rows, desc="pursuit", unit="row", disable=not progress) as bar:
        for start in range(0, max(rows, 1), batch):
            chunk = torch.arange(start, min(start + batch, rows), device=problem.targets.device)
            codes.append(_solve(problem.subset(chunk)))
            bar.update(len(chunk))
    return SparseCode(
        indices=torch.cat([code.indices for code in codes]),
        coefficients=torch.cat([code.coefficients for code in codes]),
        residual_norms=torch.cat([code.residual_norms for code in codes]),
    )


def _solve(problem: Problem) -> SparseCode:
    state = _State(problem)
    while len(state.active):
        state.advance()
    return state.finish()


class _State:
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
        self.active = (
            (problem.target_norms > torch.finfo(targets.dtype).tiny).nonzero().squeeze(1)
            if k
            else self.sizes.nonzero().squeeze(1)
        )

    def advance(self) -> None:
        """Adds one atom to each active target's support, or bars one that cannot serve."""
        rows = self.active
        correlations = (self.residuals[rows] @ self.problem.atoms.T).abs_()
        correlations.masked_fill_(self.barred[rows], -1)
        best, picks = correlations.max(dim=1)
        atoms = self.problem.atoms[picks]
        weights, directions = self._orthogonalised(rows, atoms)
        heights = torch.linalg.vector_norm(directions, dim=1)
        norms = self.problem.atom_norms[picks]
        precision = self.problem.precision
        noise = precision.correlation * self.problem.target_norms[rows]
        good = (best > noise * norms) & (heights > precision.dependence * norms)
        if not bool(good.all()):
            self._bar(rows[~good], picks[~good], correlations[~good], noise[~good])
        self._extend(rows[good], picks[good], weights[good], directions[good], heights[good])
        self.active = rows[self._searching(rows)]

    def _orthogonalised(self, rows: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
        filled = int(self.sizes[rows].max())
        basis = self.basis[rows, :filled]
        weights = atoms.new_zeros(len(rows), filled)
        # Twice is enough (Giraud et al. 2005): once loses orthogonality with similar atoms.
        for _ in range(2):
            again = torch.einsum("bkd,bd->bk", basis, atoms)
            atoms = atoms - torch.einsum("bkd,bk->bd", basis, again)
            weights += again
        return weights, atoms

    def _bar(self, rows: Tensor, picks: Tensor, correlations: Tensor, noise: Tensor) -> None:
        self.barred[rows] |= correlations <= noise[:, None] * self.problem.atom_norms
        self.barred[rows, picks] = True

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
        self.sizes[rows] += 1

    def _searching(self, rows: Tensor) -> Tensor:
        left = torch.linalg.vector_norm(self.residuals[rows], dim=1)
        open_slots = self.sizes[rows] < self.problem.sparsity
        unexplained = left > self.problem.tolerance * self.problem.target_norms[rows]
        return open_slots & unexplained & ~self.barred[rows].all(dim=1)

    def finish(self) -> SparseCode:
        k = self.problem.sparsity
        used = torch.arange(k, device=self.sizes.device) < self.sizes[:, None]
        # A one on the diagonal of an unused slot keeps the factor invertible.
        self.factor.diagonal(dim1=1, dim2=2).masked_fill_(~used, 1)
        coefficients = _upper_solve(self.factor, self.projections)
        return SparseCode(
            indices=self.indices,
            coefficients=coefficients,
            residual_norms=torch.linalg.vector_norm(
                self.problem.targets - _decode(self.problem, self.indices, coefficients), dim=1
            ),
        )


def _upper_solve(
    factor: Float[Tensor, "batch k k"], right: Float[Tensor, "batch k"]
) -> Float[Tensor, "batch k"]:
    return torch.linalg.solve_triangular(factor, right[:, :, None], upper=True).squeeze(2)


def _decode(problem: Problem, indices: Tensor, coefficients: Tensor) -> Tensor:
    return SparseCode(indices, coefficients, coefficients.new_zeros(len(indices))).decode(
        problem.atoms
    )
