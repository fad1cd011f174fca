"""Ridge regression from normal equations, its penalty chosen by generalised cross-validation.

Inputs come block by block, so that they need not fit in memory as one matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from tqdm import tqdm

from mergekit_omp.approximation.cholesky import Tick, factorise, panels, solve, trace_of_inverse
from mergekit_omp.approximation.chunks import SHOWN_AFTER

GRID = tuple(10.0 ** (step / 2) for step in range(-8, 7))
"""Penalties that are tried, relative to the mean variance of a feature."""
START = GRID.index(1.0)
USUAL = 3
"""How many of them are tried as a rule."""

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
    residual: float
    """The mean squared residual of the rows that it was fitted to."""
    leverages: Float64[Tensor, "checked"]
    """How far each of the checked rows pulls its own prediction to itself: what is left of its
    output, over 1 less this, is what would be left without it."""


@dataclass(frozen=True, eq=False)
class _Normal:
    """X'X on and above its diagonal, that diagonal, X'Y, |Y|² and the number of rows."""

    gram: Float64[Tensor, "inputs inputs"]
    """Below its diagonal is the factor of the penalty that was tried last."""
    diagonal: Float64[Tensor, "inputs"]
    right: Float64[Tensor, "inputs outputs"]
    square: float
    count: int

    @property
    def scale(self) -> float:
        return self.diagonal.mean().item()


def fit_ridge(
    blocks: Blocks,
    inputs: int,
    outputs: int,
    *,
    device: torch.device,
    ridge: float | None = None,
    checked: Float[Tensor, "checked inputs"] | None = None,
    progress: bool = False,
) -> RidgeFit:
    """Minimises |X W - Y|² + l |W|², l = `ridge` · (mean of X'X's diagonal).

    Without `ridge`, that of `GRID` which minimises the generalised cross-validation error (Golub,
    Heath & Wahba 1979): starting from 1, in the direction in which the error falls, to the first
    minimum. `checked` are inputs, some of those of the blocks, whose leverages are wanted;
    `progress` shows a bar while penalties are tried.

    Raises:
        ValueError: the inputs are too alike for the penalty.
    """
    normal = _normal_equations(blocks, inputs, outputs, device)
    if not normal.scale > 0:
        error = normal.square / max(normal.count, 1)
        none = normal.gram.new_zeros(0 if checked is None else len(checked))
        return RidgeFit(torch.zeros_like(normal.right), 0.0, error, error, none)
    with _Trials(normal, USUAL if ridge is None else 1, progress) as tried:
        if ridge is not None:
            return replace(tried.validated(ridge), leverages=tried.leverages(ridge, checked))
        best = tried.validated(GRID[START])
        at = START
        for step in (-1, 1):
            while 0 <= at + step < len(GRID):
                fit = tried.validated(GRID[at + step])
                if not fit.squared_error < best.squared_error:
                    break
                best, at = fit, at + step
            if at != START:
                break
        return replace(best, leverages=tried.leverages(best.ridge, checked))


def _normal_equations(blocks: Blocks, inputs: int, outputs: int, device: torch.device) -> _Normal:
    """Products in the precision of the blocks, sums in float64."""
    gram = torch.zeros((inputs, inputs), dtype=torch.float64, device=device)
    right = torch.zeros((inputs, outputs), dtype=torch.float64, device=device)
    square, count = 0.0, 0
    for x, y in blocks():
        for panel in panels(inputs):
            gram[panel, panel.start :] += x[:, panel].T @ x[:, panel.start :]
            right[panel] += x[:, panel].T @ y
        square += torch.linalg.vector_norm(y, dtype=torch.float64).square().item()
        count += len(x)
    return _Normal(gram, gram.diagonal().clone(), right, square, count)


class _Trials:
    """Fits with one penalty after another, and a bar of how far they are."""

    def __init__(self, normal: _Normal, expected: int, progress: bool):
        self.normal = normal
        self.count = 0
        self._factorised: float | None = None
        self._bar = tqdm(
            total=expected,
            desc="Penalty",
            bar_format="{l_bar}{bar}| [{elapsed}<{remaining}]",
            disable=not progress,
            delay=SHOWN_AFTER,
        )

    def __enter__(self) -> _Trials:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.total = self.count
        self._bar.close()

    def validated(self, ridge: float) -> RidgeFit:
        """The fit of one penalty, with its generalised cross-validation error for a row."""
        normal, bar = self.normal, self._bar
        self.count += 1
        if bar.total is not None and self.count > bar.total:
            bar.total = self.count
        factor, penalty = normal.gram, ridge * normal.scale
        self._factorise(ridge, lambda done: bar.update(done / 4))
        solution = solve(factor, normal.right, lambda done: bar.update(done / 2))
        trace = trace_of_inverse(factor, lambda done: bar.update(done / 4))
        # The degrees of freedom: the trace of the hat matrix, and one for the intercept.
        freedom = len(factor) - penalty * trace + 1
        error = (
            normal.square
            - torch.tensordot(solution, normal.right).item()
            - penalty * torch.linalg.vector_norm(solution).square().item()
        )
        left = max(1 - freedom / normal.count, 1e-6)
        residual = max(error, 0.0) / normal.count
        return RidgeFit(solution, ridge, residual / left**2, residual, normal.gram.new_empty(0))

    def leverages(
        self, ridge: float, checked: Float[Tensor, "checked inputs"] | None
    ) -> Float64[Tensor, "checked"]:
        """The diagonal of the hat matrix (Golub, Heath & Wahba 1979), with that of the intercept."""
        if checked is None:
            return self.normal.gram.new_empty(0)
        bar = self._bar
        self.count += 1
        if bar.total is not None:
            bar.total = self.count
        self._factorise(ridge, lambda done: bar.update(done / 2))
        inputs = checked.T.double()
        solved = solve(self.normal.gram, inputs, lambda done: bar.update(done / 2))
        return (inputs * solved).sum(0) + 1 / self.normal.count

    def _factorise(self, ridge: float, tick: Tick) -> None:
        """Puts the factor of a penalty below the diagonal, unless it is there."""
        if ridge == self._factorised:
            return
        normal = self.normal
        if not factorise(normal.gram, normal.diagonal + ridge * normal.scale, tick):
            raise ValueError(
                f"the anchors are too alike for a ridge of {ridge:g}: write a larger one"
            )
        self._factorised = ridge
