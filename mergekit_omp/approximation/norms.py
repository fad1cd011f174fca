"""Rescaling rows to another matrix's distribution of norms."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mergekit_omp.approximation.codes import working_dtype


def match_norms(
    rows: Float[Tensor, "missing dim"], base: Float[Tensor, "base_rows dim"]
) -> Float[Tensor, "missing dim"]:
    """`rows`, scaled one by one so that their norms are distributed as those of `base`.

    Quantile matching: the row of rank r among n (1 the shortest; equal norms share their mean
    rank) gets the quantile (r - 1/2) / n of the base's norms, linear between order statistics.
    Zero rows, and rows that are not finite, stay as they are, and are left out of both
    distributions.
    """
    dtype = working_dtype(rows)
    sizes = torch.linalg.vector_norm(rows.to(dtype), dim=1)
    reference = torch.linalg.vector_norm(base, dim=1, dtype=working_dtype(base))
    reference = reference[torch.isfinite(reference) & (reference > 0)].sort().values.double()
    usable = (torch.isfinite(sizes) & (sizes > 0)).nonzero()[:, 0]
    if len(usable) == 0 or len(reference) == 0:
        return rows
    _, group, population = sizes[usable].unique(return_inverse=True, return_counts=True)
    last = population.cumsum(0).double()
    ranks = (last - (population.double() - 1) / 2)[group]
    position = (ranks - 0.5) / len(usable) * len(reference) - 0.5
    position = position.clamp(0, len(reference) - 1)
    below = position.floor().long()
    above = (below + 1).clamp_max(len(reference) - 1)
    norms = torch.lerp(reference[below], reference[above], position - below)
    scaled = rows.to(dtype, copy=True)
    scaled[usable] *= (norms / sizes[usable].double()).to(dtype)[:, None]
    return scaled
