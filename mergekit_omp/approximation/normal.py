"""`normal`: a seeded sample from the normal distribution of the base's rows."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mergekit_omp.approximation.base import Approximation, Cost, MissingRows, Sizes
from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.codes import working_dtype
from mergekit_omp.approximation.moments import finite_rows, moments, standard_normal
from mergekit_omp.approximation.parameters import Seed


class Normal(Approximation, frozen=True):
    """Rows drawn from N(mean, covariance) of the base's matrix.

    The same draws serve every model of a merge, so that averaging models does not shrink them.
    """

    name: ClassVar[str] = "normal"
    reference: ClassVar[str | None] = "https://nlp.stanford.edu/~johnhew/vocab-expansion.html"

    seed: Seed = Field(default=0, description="Starts the random generator.")

    def cost(self, sizes: Sizes) -> Cost:
        return Cost(float(sizes.base_rows) * sizes.base_dim**2)

    def approximate(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        base = problem.base
        mean = moments(base)[0]
        factor = _covariance_factor(base, mean).to(working_dtype(base))
        sample = standard_normal(problem.inputs.missing, base, problem.part.seed(self.seed))
        return mean.to(working_dtype(base)) + sample @ factor.T


def _covariance_factor(
    base: Float[Tensor, "rows dim"], mean: Float[Tensor, "dim"]
) -> Float[Tensor, "dim dim"]:
    """L with L L^T the covariance of the finite rows, in float64."""
    finite = finite_rows(base).nonzero()[:, 0]
    dim = base.shape[1]
    covariance = mean.new_zeros((dim, dim))
    for block in chunks(len(finite), 16 * dim):
        offsets = (base[finite[block]].double() - mean).to(working_dtype(base))
        covariance += (offsets.T @ offsets).double()
    covariance /= max(1, len(finite) - 1)
    scale = covariance.diagonal().mean()
    if scale == 0:
        return covariance
    # With fewer rows than dimensions, or constant dimensions, it is singular: add to its diagonal.
    jitter = 0.0
    while True:
        lifted = covariance.clone()
        lifted.diagonal().add_(jitter * scale)
        factor, failed = torch.linalg.cholesky_ex(lifted)
        if not failed:
            return factor
        jitter = max(1e-12, 10 * jitter)
