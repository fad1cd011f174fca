"""`zero`: rows of zeros, the weakest baseline."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mergekit_omp.approximation.base import Approximation, MissingRows
from mergekit_omp.approximation.codes import working_dtype


class Zero(Approximation, frozen=True):
    """Zeros: what mergekit itself writes for tokens of a model outside the merge."""

    name: ClassVar[str] = "zero"

    def approximate(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        shape = (problem.inputs.missing, problem.base.shape[1])
        return problem.base.new_zeros(shape, dtype=working_dtype(problem.base))
