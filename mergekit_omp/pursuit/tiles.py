"""The innermost loops of a pursuit over a Gram matrix: everything here is as long as the atoms.

Loops are written out four by four, because that is what keeps the operands in registers.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Int64

from mergekit_omp.kernels.compiled import kernel

TILE = 1024
"""Atoms in a tile: four of its rows, and four of the result, stay in a first-level cache."""

Table = Int[np.ndarray, "atoms row"]
Atoms = Float[np.ndarray, "atoms"]
Slots = Int64[np.ndarray, "slots"]
Listed = Int64[np.ndarray, "listed"]
Rows = Float[np.ndarray, "_ _"]
Values = Float[np.ndarray, "_"]
"""Some numbers in a row; where two are given, the shorter says how many."""

LANES = 256
"""Running maxima kept side by side."""
CHUNK = 64
"""Values that are passed over together."""


@kernel
def combine(
    starts: Atoms,
    gram: Table,
    support: Slots,
    size: int,
    weights: Rows,
    rows: int,
    low: int,
    high: int,
    out: Rows,
) -> None:
    """out[i] = (starts + sum over p of weights[i, p] * gram[support[p]])[low:high], for i < rows.

    Works in fours: up to three more rows are written, and slots beyond `size` must have weight 0.
    """
    width = high - low
    # Indices that start from zero are known not to be negative, which vectors need.
    begun = starts[low:high]
    for i in range((rows + 3) // 4 * 4):
        for x in range(width):
            out[i, x] = begun[x]
    # Four rows of the result stay in a first-level cache until they are complete.
    for i in range(0, rows, 4):
        c0, c1, c2, c3 = out[i], out[i + 1], out[i + 2], out[i + 3]
        for p in range(0, size, 4):
            g0 = gram[support[p], low:high]
            g1 = gram[support[p + 1], low:high]
            g2 = gram[support[p + 2], low:high]
            g3 = gram[support[p + 3], low:high]
            w00, w01 = weights[i, p], weights[i, p + 1]
            w02, w03 = weights[i, p + 2], weights[i, p + 3]
            w10, w11 = weights[i + 1, p], weights[i + 1, p + 1]
            w12, w13 = weights[i + 1, p + 2], weights[i + 1, p + 3]
            w20, w21 = weights[i + 2, p], weights[i + 2, p + 1]
            w22, w23 = weights[i + 2, p + 2], weights[i + 2, p + 3]
            w30, w31 = weights[i + 3, p], weights[i + 3, p + 1]
            w32, w33 = weights[i + 3, p + 2], weights[i + 3, p + 3]
            for x in range(width):
                y0 = g0[x]
                y1 = g1[x]
                y2 = g2[x]
                y3 = g3[x]
                c0[x] += w00 * y0 + w01 * y1 + w02 * y2 + w03 * y3
                c1[x] += w10 * y0 + w11 * y1 + w12 * y2 + w13 * y3
                c2[x] += w20 * y0 + w21 * y1 + w22 * y2 + w23 * y3
                c3[x] += w30 * y0 + w31 * y1 + w32 * y2 + w33 * y3


@kernel
def largest(values: Values) -> float:
    """The largest magnitude."""
    # One lane by one: compilers do not turn the maximum of floats into vector instructions.
    lanes = np.zeros(LANES, values.dtype)
    whole = values.shape[0] // LANES * LANES
    for first in range(0, whole, LANES):
        part = values[first : first + LANES]
        for x in range(LANES):
            size = abs(part[x])
            lanes[x] = size if size > lanes[x] else lanes[x]
    top = lanes[0]
    for x in range(LANES):
        top = max(top, lanes[x])
    for x in range(whole, values.shape[0]):
        top = max(top, abs(values[x]))
    return top


@kernel
def reaches(values: Values, norms: Atoms, margin: float, low: int, high: int, level: float) -> bool:
    """Whether any magnitude, plus a margin of error, passes a level, in units of the norms."""
    extra, bar = values.dtype.type(margin), values.dtype.type(level)
    lengths = norms[low:high]
    found = False
    for x in range(high - low):
        found |= (abs(values[x]) + extra) * lengths[x] > bar
    return found


@kernel
def count_from(values: Values, level: float) -> int:
    """How many of some values are at least a level."""
    bar = values.dtype.type(level)
    # A count as wide as the values, so that as many are compared at once.
    count = np.int32(0)
    for x in range(values.shape[0]):
        count = np.int32(count + np.int32(values[x] >= bar))
    return int(count)


@kernel
def shortlist(
    values: Atoms,
    norms: Atoms,
    margin: float,
    want: int,
    share: float,
    uppers: Atoms,
    found: Listed,
) -> tuple[int, float]:
    """Lists about `want` atoms of the largest magnitudes, and all that may be the largest.

    `values` and their margin of error are in units of the norms; `uppers` are bounds to be filled.
    `share` of the largest of them is where the search for a level begins. Returns how many were
    found (more than fit means that they were not all listed) and the level's share.
    """
    extra = values.dtype.type(margin)
    for x in range(values.shape[0]):
        uppers[x] = (abs(values[x]) + extra) * norms[x]
    top = largest(uppers)
    low, high = 0.0, 1.0
    for _ in range(12):
        count = count_from(uppers, top * share)
        if count > want:
            low = share
        elif count < want // 2:
            high = share
        else:
            break
        share = 0.5 * (low + high)
    likely = 0
    while uppers[likely] < top:
        likely += 1
    level = min(top * share, top - 2 * margin * norms[likely])
    count = 0
    for first in range(0, uppers.shape[0], CHUNK):
        part = uppers[first : first + CHUNK]
        if count_from(part, level):
            for x in range(part.shape[0]):
                if part[x] >= level:
                    if count < found.shape[0]:
                        found[count] = first + x
                    elif part[x] >= top:
                        found[0] = first + x
                    count += 1
    return count, share


@kernel
def dot(left: Values, right: Values) -> float:
    """The inner product."""
    total = left[0] * right[0] * 0
    for x in range(left.shape[0]):
        total += left[x] * right[x]
    return total


@kernel
def copy(values: Values, out: Values) -> None:
    """out = values. Assigned to a slice it would take seconds to compile."""
    for x in range(out.shape[0]):
        out[x] = values[x]


@kernel
def shift(values: Values, change: Values, step: float, count: int) -> None:
    """values += step * change, for the first `count`."""
    factor = values.dtype.type(step)
    for x in range(count):
        values[x] += factor * change[x]
