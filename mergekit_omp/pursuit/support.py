"""A growing support: its Cholesky factor, its least-squares coefficients, and their refinement.

The factor is that of the Gram matrix of the support, in float64 whatever the working dtype, and
grows by a row per atom (Rubinstein, Zibulevsky and Elad 2008).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64, UInt8

from mergekit_omp.kernels.compiled import kernel
from mergekit_omp.pursuit.tiles import dot

Row = Float[np.ndarray, "dim"]
Exact = Float64[np.ndarray, "dim"]
Atoms = Float[np.ndarray, "atoms dim"]
Slots = Int64[np.ndarray, "slots"]
Coefficients = Float64[np.ndarray, "k"]


class Support(NamedTuple):
    """The atoms of one target's support, and their least-squares problem; rows beyond are void."""

    atoms: Slots
    """As many as fit, rounded up to fours; unused ones are 0."""
    listed: UInt8[np.ndarray, "atoms"]
    """1 for each atom of the dictionary that is in the support, or on the present shortlist."""
    factor: Float64[np.ndarray, "k k"]
    coefficients: Coefficients
    products: Coefficients
    """Inner products of a new atom with the support's."""
    weights: Coefficients
    """Its inner products with the orthonormal basis of the support."""
    duals: Coefficients
    """Its least-squares coefficients on the support."""


@kernel
def orthogonalise(support: Support, size: int, products: Float64[np.ndarray, "_"]) -> float:
    """What a new atom has in common with the support, from its inner products with it.

    Writes the support's `weights` and `duals`; returns the sum of squares of `weights`.
    """
    factor, weights, duals = support.factor, support.weights, support.duals
    shared = 0.0
    for p in range(size):
        value = products[p]
        for q in range(p):
            value -= factor[p, q] * weights[q]
        weights[p] = value / factor[p, p]
        shared += weights[p] * weights[p]
    # With the transposed factor, by rows, so that memory is read in order.
    for p in range(size):
        duals[p] = weights[p]
    for p in range(size - 1, -1, -1):
        duals[p] /= factor[p, p]
        for q in range(p):
            duals[q] -= factor[p, q] * duals[p]
    return shared


@kernel
def extend(support: Support, size: int, height: float, projection: float) -> None:
    """Adds the atom of `orthogonalise`: a row of the factor, and new least-squares coefficients.

    `height` is the norm of what the support does not hold of the atom, and `projection` the inner
    product of that part's direction with the residual.
    """
    step = projection / height
    for p in range(size):
        support.factor[size, p] = support.weights[p]
        support.coefficients[p] -= step * support.duals[p]
    support.factor[size, size] = height
    support.coefficients[size] = step


@kernel
def remainder(
    target: Row, atoms: Atoms, support: Slots, size: int, coefficients: Coefficients, out: Exact
) -> float:
    """out = target - the combination, summed in float64; returns its Euclidean norm."""
    for x in range(target.shape[0]):
        out[x] = target[x]
    for p in range(size):
        atom = atoms[support[p]]
        value = coefficients[p]
        for x in range(target.shape[0]):
            out[x] -= value * atom[x]
    return math.sqrt(dot(out, out))


@kernel
def refine(
    target: Row, atoms: Atoms, support: Support, size: int, noise: float
) -> tuple[float, bool]:
    """Polishes coefficients to those of least squares by iterative refinement in float64.

    Returns the residual's norm, and whether the residual is no more correlated with the support
    than `noise` (relative to the norms of target and atom): else the factor is too poor.
    """
    residual = np.empty(target.shape[0])
    products = np.empty(size)
    length = remainder(target, atoms, support.atoms, 0, support.coefficients, residual)
    norm = remainder(target, atoms, support.atoms, size, support.coefficients, residual)
    worst = 0.0
    for turn in range(3):
        worst = 0.0
        for p in range(size):
            line = support.factor[p, : p + 1]
            products[p] = dot(atoms[support.atoms[p]], residual)
            worst = max(worst, abs(products[p]) / math.sqrt(dot(line, line)))
        if turn == 2:
            break
        orthogonalise(support, size, products)
        for p in range(size):
            support.coefficients[p] += support.duals[p]
        norm = remainder(target, atoms, support.atoms, size, support.coefficients, residual)
    return norm, worst <= noise * length
