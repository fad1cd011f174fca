"""Cholesky factorisation of a large symmetric matrix in its own place, panel by panel.

The factor takes the lower triangle and the diagonal; above it the matrix stays, so that it can be
factorised again with another diagonal. All but the diagonal blocks is matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float64
from torch import Tensor

PANEL = 512

Matrix = Float64[Tensor, "size size"]
Tick = Callable[[float], object]
"""Called with the share of a function's work that has been done since the last call."""


def factorise(matrix: Matrix, diagonal: Float64[Tensor, "size"], tick: Tick) -> bool:
    """Puts the factor of the matrix with another diagonal below it; False where there is none.

    Only what is above the diagonal is read.
    """
    size = len(matrix)
    for panel in panels(size):
        block = matrix[panel, panel].triu(1)
        block = block + block.T + torch.diag(diagonal[panel])
        below = slice(panel.stop, size)
        left = matrix[panel, : panel.start]
        block -= left @ left.T
        factor, failed = torch.linalg.cholesky_ex(block)
        if failed:
            return False
        rest = matrix[panel, below].T - matrix[below, : panel.start] @ left.T
        matrix[below, panel] = torch.linalg.solve_triangular(factor.T, rest, upper=True, left=False)
        kept = matrix[panel, panel]
        kept.copy_(kept.triu(1) + factor)
        # The work of a panel is a parabola of its place.
        tick(_share(panel, size, lambda done: 3 * done**2 - 2 * done**3))
    return True


def solve(factor: Matrix, right: Float64[Tensor, "size outputs"], tick: Tick) -> Tensor:
    """The solution for the matrix of which `factor` holds the factor, as `factorise` left it."""
    found, size = right.clone(), len(factor)
    for panel in panels(size):
        found[panel] -= factor[panel, : panel.start] @ found[: panel.start]
        found[panel] = torch.linalg.solve_triangular(
            factor[panel, panel].tril(), found[panel], upper=False
        )
        tick(_share(panel, size, lambda done: done**2) / 2)
    for panel in reversed(list(panels(size))):
        found[panel] -= factor[panel.stop :, panel].T @ found[panel.stop :]
        found[panel] = torch.linalg.solve_triangular(
            factor[panel, panel].tril().T, found[panel], upper=True
        )
        tick(_share(panel, size, lambda done: done**2) / 2)
    return found


def trace_of_inverse(factor: Matrix, tick: Tick) -> float:
    """The trace of the inverse of the matrix: the sum of squares of the factor's inverse."""
    size = len(factor)
    corners = [
        torch.linalg.solve_triangular(
            factor[panel, panel].tril(),
            torch.eye(panel.stop - panel.start, dtype=factor.dtype, device=factor.device),
            upper=False,
        )
        for panel in panels(size)
    ]
    total = 0.0
    # Columns of the inverse, which are zero above the diagonal.
    for first, column in enumerate(panels(size)):
        inverse = factor.new_empty((size - column.start, column.stop - column.start))
        for corner, panel in list(zip(corners, panels(size), strict=True))[first:]:
            inside = slice(panel.start - column.start, panel.stop - column.start)
            if panel == column:
                inverse[inside] = corner
                continue
            known = inverse[: inside.start]
            inverse[inside] = -corner @ (factor[panel, column.start : panel.start] @ known)
        total += torch.linalg.vector_norm(inverse).square().item()
        tick(_share(column, size, lambda done: 1 - (1 - done) ** 3))
    return total


def panels(size: int) -> Iterator[slice]:
    for start in range(0, size, PANEL):
        yield slice(start, min(start + PANEL, size))


def _share(panel: slice, size: int, done: Callable[[float], float]) -> float:
    return done(panel.stop / size) - done(panel.start / size)
