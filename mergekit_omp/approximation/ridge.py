"""Ridge regression from normal equations, its penalty chosen by generalised cross-validation.

Inputs come block by block, so that they need not fit in memory as one matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

GRID = tuple(10.0 ** (step / 2) for step in range(-8, 7))
"""Penalties that are tried, relative to the mean variance of a feature."""
START = GRID.index(1.0)

Blocks = Callable[
    [], Iterator[tuple[Float[Tensor, "block inputs"], Float[Tensor, "block outputs"]]]
]
"""Yields centred inputs and outputs, some rows at a time; called once."""


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """Coefficients, and the penalty that they were found with."""

    coefficients: Float64[Tensor, "inputs outputs"]
    ridge: float
    """Relative to the mean variance of a feature; 0 where no input varies."""
    squared_error: float
    """Of a row that it was not fitted to, as generalised cross-validation estimates it."""


@dataclass(frozen=True, eq=False)
class _Normal:
    """X'X, X'Y, |Y|² and the number of rows."""

    gram: Float64[Tensor, "inputs inputs"]
    right: Float64[Tensor, "inputs outputs"]
    square: float
    count: int

    @property
    def scale(self) -> float:
        return self.gram.trace().item() / len(self.gram)


def fit_ridge(
    blocks: Blocks, inputs: int, outputs: int, *, device: torch.device, ridge: float | None = None
) -> RidgeFit:
    """Minimises |X W - Y|² + l |W|², l = `ridge` · (mean of X'X's diagonal).

    Without `ridge`, that of `GRID` which minimises the generalised cross-validation error (Golub,
    Heath & Wahba 1979): starting from 1, in the direction in which the error falls, to the first
    minimum.

    Raises:
        ValueError: the inputs are too alike for the penalty.
    """
    normal = _normal_equations(blocks, inputs, outputs, device)
    if not normal.scale > 0:
        return RidgeFit(torch.zeros_like(normal.right), 0.0, normal.square / max(normal.count, 1))
    if ridge is not None:
        coefficients, error = _validated(normal, ridge)
        return RidgeFit(coefficients, ridge, error)
    best, best_error = _validated(normal, GRID[START])
    at = START
    for step in (-1, 1):
        while 0 <= at + step < len(GRID):
            fit, error = _validated(normal, GRID[at + step])
            if not error < best_error:
                break
            best, best_error, at = fit, error, at + step
        if at != START:
            break
    return RidgeFit(best, GRID[at], best_error)


def _normal_equations(blocks: Blocks, inputs: int, outputs: int, device: torch.device) -> _Normal:
    """Products in the precision of the blocks, sums in float64."""
    gram = torch.zeros((inputs, inputs), dtype=torch.float64, device=device)
    right = torch.zeros((inputs, outputs), dtype=torch.float64, device=device)
    square, count = 0.0, 0
    for x, y in blocks():
        gram += x.T @ x
        right += x.T @ y
        square += y.double().square().sum().item()
        count += len(x)
    return _Normal(gram, right, square, count)


def _solve(
    normal: _Normal, ridge: float
) -> tuple[Float64[Tensor, "inputs outputs"], Float64[Tensor, "inputs inputs"]]:
    """The coefficients, and the Cholesky factor of the penalised Gram matrix."""
    penalised = normal.gram.clone()
    penalised.diagonal().add_(ridge * normal.scale)
    factor, failed = torch.linalg.cholesky_ex(penalised)
    if failed:
        raise ValueError(f"the anchors are too alike for a ridge of {ridge:g}: write a larger one")
    return torch.cholesky_solve(normal.right, factor), factor


def _validated(normal: _Normal, ridge: float) -> tuple[Float64[Tensor, "inputs outputs"], float]:
    """The coefficients of one penalty and their generalised cross-validation error, for a row."""
    solution, factor = _solve(normal, ridge)
    penalty = ridge * normal.scale
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    # The degrees of freedom: the trace of the hat matrix, and one for the intercept.
    freedom = len(factor) - penalty * inverse.square().sum().item() + 1
    error = (
        normal.square
        - (solution * normal.right).sum().item()
        - penalty * solution.square().sum().item()
    )
    left = max(1 - freedom / normal.count, 1e-6)
    return solution, max(error, 0.0) / normal.count / left**2
