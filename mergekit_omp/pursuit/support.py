"""A growing support: its Cholesky factor, its least-squares coefficients, and their refinement.

The factor is that of the Gram matrix of the support, in float64 whatever the working dtype, and
grows by a row per atom (Rubinstein, Zibulevsky and Elad 2008).
"""

from __future__ import annotations

import math

import numpy as np

from mergekit_omp.pursuit.compiled import kernel


@kernel
def orthogonalise(factor, size, products, weights, duals):  # type: ignore[no-untyped-def]
    """What a new atom has in common with the support, from its inner products with it.

    Writes `weights` (inner products with the orthonormal basis of the support) and `duals` (its
    least-squares coefficients on the support); returns the sum of squares of `weights`.
    """
    shared = 0.0
    for p in range(size):
        value = products[p]
        for q in range(p):
            value -= factor[p, q] * weights[q]
        weights[p] = value / factor[p, p]
        shared += weights[p] * weights[p]
    backsolve(factor, size, weights, duals)
    return shared


@kernel
def backsolve(factor, size, right, out):  # type: ignore[no-untyped-def]
    """Solves with the transposed factor; by rows, so that memory is read in order."""
    for p in range(size):
        out[p] = right[p]
    for p in range(size - 1, -1, -1):
        out[p] /= factor[p, p]
        for q in range(p):
            out[q] -= factor[p, q] * out[p]


@kernel
def extend(factor, size, weights, duals, height, projection, coefficients):  # type: ignore[no-untyped-def]
    """Adds the atom of `orthogonalise`: a row of the factor, and new least-squares coefficients."""
    step = projection / height
    for p in range(size):
        factor[size, p] = weights[p]
        coefficients[p] -= step * duals[p]
    factor[size, size] = height
    coefficients[size] = step


@kernel
def remainder(target, atoms, support, size, coefficients, out):  # type: ignore[no-untyped-def]
    """out = target - the combination, summed in float64; returns its Euclidean norm."""
    for x in range(target.shape[0]):
        out[x] = target[x]
    for p in range(size):
        atom = atoms[support[p]]
        value = coefficients[p]
        for x in range(target.shape[0]):
            out[x] -= value * atom[x]
    total = 0.0
    for x in range(target.shape[0]):
        total += out[x] * out[x]
    return math.sqrt(total)


@kernel
def refine(target, atoms, support, size, factor, coefficients, rounds, noise):  # type: ignore[no-untyped-def]
    """Polishes coefficients to those of least squares by iterative refinement in float64.

    Returns the residual's norm, negative if the residual stayed correlated with the support by
    more than `noise` (relative to the norms of target and atom): the factor is then too poor.
    """
    residual = np.empty(target.shape[0])
    products = np.empty(size)
    change = np.empty(size)
    scratch = np.empty(size)
    norm = remainder(target, atoms, support, size, coefficients, residual)
    for turn in range(rounds + 1):
        worst = 0.0
        for p in range(size):
            atom = atoms[support[p]]
            total = 0.0
            square = 0.0
            for x in range(target.shape[0]):
                total += atom[x] * residual[x]
            for q in range(p):
                square += factor[p, q] * factor[p, q]
            square += factor[p, p] * factor[p, p]
            products[p] = total
            worst = max(worst, abs(total) / math.sqrt(square))
        if turn == rounds:
            break
        orthogonalise(factor, size, products, scratch, change)
        for p in range(size):
            coefficients[p] += change[p]
        norm = remainder(target, atoms, support, size, coefficients, residual)
    length = 0.0
    for x in range(target.shape[0]):
        length += float(target[x]) * float(target[x])
    return norm if worst <= noise * math.sqrt(length) else -1.0
