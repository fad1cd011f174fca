"""Orthonormal bases, one for each target in flight: what of a new atom they do not hold."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mergekit_omp.kernels import compiled
from mergekit_omp.kernels.compiled import kernel
from mergekit_omp.kernels.threads import in_threads
from mergekit_omp.pursuit.tiles import dot, shift

AGAIN = 0.7
"""Gram-Schmidt twice is enough, and once where this share is left (Giraud et al. 2005)."""


def orthogonalised(
    basis: Float[Tensor, "targets k dim"],
    sizes: Int64[Tensor, "targets"],
    active: Int64[Tensor, "batch"],
    atoms: Float[Tensor, "batch dim"],
) -> tuple[Float[Tensor, "batch filled"], Float[Tensor, "batch dim"]]:
    """Each atom's weights in the basis of its target, and the rest of it.

    `basis[i]` has `sizes[i]` rows that are orthonormal, and zeros; `atoms[i]` is for target
    `active[i]`.
    """
    filled = int(sizes[active].max())
    if compiled.AVAILABLE and atoms.device.type == "cpu":
        weights = atoms.new_zeros(len(active), filled)
        rest = atoms.clone()
        arguments = [values.numpy() for values in (basis, sizes, active, rest, weights)]
        in_threads(lambda first, last: split(first, last, *arguments), len(active))
        return weights, rest
    part = basis[:, :filled]
    part = part if len(active) == len(part) else part[active]
    weights, rest = _split(part, atoms)
    lengths = torch.linalg.vector_norm(rest, dim=1)
    again = (lengths < AGAIN * torch.linalg.vector_norm(atoms, dim=1)).nonzero().squeeze(1)
    if len(again):
        more, rest[again] = _split(part[again], rest[again])
        weights[again] += more
    return weights, rest


def _split(
    basis: Float[Tensor, "batch filled dim"], rows: Float[Tensor, "batch dim"]
) -> tuple[Float[Tensor, "batch filled"], Float[Tensor, "batch dim"]]:
    weights = torch.bmm(basis, rows[:, :, None])
    return weights.squeeze(2), torch.baddbmm(
        rows[:, None], weights.transpose(1, 2), basis, alpha=-1
    ).squeeze(1)


@kernel
def split(
    first: int,
    last: int,
    basis: Float[np.ndarray, "targets k dim"],
    sizes: Int64[np.ndarray, "targets"],
    active: Int64[np.ndarray, "batch"],
    rest: Float[np.ndarray, "batch dim"],
    weights: Float[np.ndarray, "batch filled"],
) -> None:
    """The same for rows `first` to `last` of `rest`, in place: a basis is read from memory once."""
    for at in range(first, last):
        vectors, size, row = basis[active[at]], sizes[active[at]], rest[at]
        parts = np.empty(size, row.dtype)
        before = math.sqrt(dot(row, row))
        for _ in range(2):
            for p in range(size):
                parts[p] = dot(vectors[p], row)
                weights[at, p] += parts[p]
            for p in range(size):
                shift(row, vectors[p], -parts[p], row.shape[0])
            if math.sqrt(dot(row, row)) >= AGAIN * before:
                break
