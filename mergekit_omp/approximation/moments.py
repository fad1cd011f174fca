"""Mean, spread and seeded samples of a base's rows, for tokens of which nothing better is known.

Rows with values that are not finite are left out everywhere.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mergekit_omp.approximation.chunks import strips
from mergekit_omp.approximation.codes import working_dtype


def finite_rows(rows: Float[Tensor, "rows dim"]) -> Bool[Tensor, "rows"]:
    """Which rows have finite values only."""
    # What is not finite stays so in a sum; looking at every value takes twenty times as long.
    finite = torch.isfinite(rows.sum(1))
    doubtful = (~finite).nonzero()[:, 0]
    for block in strips(len(doubtful), 3 * rows.shape[1] * rows.element_size()):
        finite[doubtful[block]] = torch.isfinite(rows[doubtful[block]]).all(1)
    return finite


def finite_mean(
    rows: Float[Tensor, "rows dim"], among: Bool[Tensor, "rows"] | None = None
) -> Float[Tensor, "dim"]:
    """The mean of the finite rows (of those in `among`), in float64; zeros where there is none."""
    chosen = finite_rows(rows) if among is None else finite_rows(rows) & among
    return _mean_at(rows, chosen.nonzero()[:, 0])


def finite_mean_at(
    rows: Float[Tensor, "rows dim"], indices: Int64[Tensor, "some"]
) -> Float[Tensor, "dim"]:
    """`finite_mean(rows[indices])`, which would copy them."""
    return _mean_at(rows, indices[finite_rows(rows)[indices]])


def _mean_at(
    rows: Float[Tensor, "rows dim"], indices: Int64[Tensor, "some"]
) -> Float[Tensor, "dim"]:
    total = rows.new_zeros(rows.shape[1], dtype=torch.float64)
    for block in strips(len(indices), 16 * rows.shape[1]):
        total += rows[indices[block]].double().sum(0)
    return total / max(len(indices), 1)


def moments(
    base: Float[Tensor, "rows dim"],
) -> tuple[Float[Tensor, "dim"], Float[Tensor, "dim"]]:
    """Mean and standard deviation (of the population) of each dimension, in float64.

    Raises ValueError if no row is finite.
    """
    finite = _finite_indices(base)
    mean = finite_mean(base)
    squares = torch.zeros_like(mean)
    for block in strips(len(finite), 24 * base.shape[1]):
        squares += (base[finite[block]].double() - mean).square().sum(0)
    return mean, (squares / len(finite)).sqrt()


def mean_row(base: Float[Tensor, "rows dim"]) -> Float[Tensor, "dim"]:
    """The mean of the finite rows; float32, or float64 where the matrix is.

    Raises ValueError if no row is finite.
    """
    _finite_indices(base)
    return finite_mean(base).to(working_dtype(base))


def _finite_indices(base: Float[Tensor, "rows dim"]) -> Int64[Tensor, "finite"]:
    finite = finite_rows(base).nonzero()[:, 0]
    if len(finite) == 0:
        raise ValueError(
            f"none of the {len(base)} rows of the base's matrix is finite, so they have no mean: "
            "repair the checkpoint"
        )
    return finite


def standard_normal(
    count: int, base: Float[Tensor, "rows dim"], seed: int
) -> Float[Tensor, "count dim"]:
    """A seeded sample of N(0, 1), the same on every device; as wide as `base`."""
    generator = torch.Generator("cpu").manual_seed(seed)
    sample = torch.randn((count, base.shape[1]), generator=generator, dtype=torch.float32)
    return sample.to(base.device, working_dtype(base))


def normal_rows(
    count: int, base: Float[Tensor, "rows dim"], seed: int
) -> Float[Tensor, "count dim"]:
    """A seeded sample with the mean and standard deviation of each dimension of the base's rows."""
    mean, deviation = (moment.to(working_dtype(base)) for moment in moments(base))
    return mean + deviation * standard_normal(count, base, seed)
