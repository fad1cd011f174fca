"""`mean`: the mean of the base's rows for every missing token."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mergekit_omp.approximation.base import Approximation, MissingRows
from mergekit_omp.approximation.moments import mean_row


class Mean(Approximation, frozen=True):
    """The mean of the base's whole matrix, rows that are not finite left out."""

    name: ClassVar[str] = "mean"

    def approximate(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        return mean_row(problem.base).expand(problem.inputs.missing, -1).clone()
