"""Which atoms may have the largest correlation, from approximate ones with known error bounds.

A tile holds integer products of coarse residuals and coarse atoms. Scaled back, each is off by at
most a margin; an atom stays a candidate while its correlation plus the margin reaches the largest
correlation less its margin that was seen so far.
"""

from __future__ import annotations

import numpy as np

from mergekit_omp.pursuit.compiled import kernel
from mergekit_omp.pursuit.tiles import dot

CAPACITY = 256
"""Candidates kept for a residual; where more are left, all atoms are decided exactly."""
PIECE = 128
"""Atoms passed over at once where none can be a candidate."""


@kernel
def compact(picks, uppers, count, floor):  # type: ignore[no-untyped-def]
    """Drops the candidates that fell below the floor; returns how many are left."""
    kept = 0
    for x in range(count):
        if uppers[x] >= floor:
            picks[kept] = picks[x]
            uppers[kept] = uppers[x]
            kept += 1
    return kept


@kernel
def peak(line):  # type: ignore[no-untyped-def]
    """The largest magnitude of a few integers."""
    top = np.int32(0)
    for x in range(line.shape[0]):
        top = np.int32(max(top, abs(line[x])))
    return top


@kernel
def collect(  # type: ignore[no-untyped-def]
    first,
    last,
    products,
    low,
    row_scale,
    extra,
    column_scale,
    column_margin,
    order,
    barred,
    floors,
    picks,
    uppers,
    counts,
):
    """Adds the candidates of one tile to those of residuals `first` to `last`.

    Row b of the products is residual `first + b`, column x atom `order[low + x]`. A correlation is
    `products[b, x] * row_scale[first + b] * column_scale[low + x]`, off by at most
    `extra * column_scale[low + x] + row_scale[first + b] * column_margin[low + x]`. A count above
    what fits says that candidates were lost.
    """
    width = products.shape[1]
    pieces = (width + PIECE - 1) // PIECE
    steepest, widest = np.zeros(pieces, np.float32), np.zeros(pieces, np.float32)
    for x in range(width):
        steepest[x // PIECE] = max(steepest[x // PIECE], column_scale[low + x])
        widest[x // PIECE] = max(widest[x // PIECE], column_margin[low + x])
    for row in range(first, last):
        scale = row_scale[row]
        floor = floors[row]
        count = counts[row]
        for piece in range(pieces):
            left = piece * PIECE
            # Slices: indices that start from zero are known not to be negative, as vectors need.
            line = products[row - first, left : left + PIECE]
            # No atom of this piece can be larger than this.
            most = (peak(line) * scale + extra) * steepest[piece] + scale * widest[piece]
            if most < floor:
                continue
            scales = column_scale[low + left : low + left + PIECE]
            margins = column_margin[low + left : low + left + PIECE]
            # Barred atoms are orthogonal to the residual, so they do not raise the floor: `decide`
            # looks after those that are not.
            for x in range(line.shape[0]):
                value = abs(np.float32(line[x])) * scale
                floor = max(floor, (value - extra) * scales[x] - scale * margins[x])
            for x in range(line.shape[0]):
                value = abs(np.float32(line[x])) * scale
                upper = (value + extra) * scales[x] + scale * margins[x]
                if upper < floor or barred[row, order[low + left + x]]:
                    continue
                if count == picks.shape[1]:
                    count = compact(picks[row], uppers[row], count, floor)
                if count < picks.shape[1]:
                    picks[row, count] = order[low + left + x]
                    uppers[row, count] = upper
                    count += 1
                else:
                    count = picks.shape[1] + 1
                    break
            if count > picks.shape[1]:
                break
        floors[row] = floor
        counts[row] = count


@kernel
def decide(  # type: ignore[no-untyped-def]
    first, last, residuals, units, atoms, barred, floors, picks, uppers, counts, best, found
):
    """Writes the largest correlation among the candidates, and its atom; of equals the first.

    `units` are what a correlation of 1 is in each residual's floor and uppers.
    """
    for row in range(first, last):
        residual = residuals[row]
        largest = residual[0] * 0 - 1
        at = 0
        if counts[row] <= picks.shape[1]:
            for x in range(counts[row]):
                if uppers[row, x] >= floors[row]:
                    atom = picks[row, x]
                    value = abs(dot(atoms[atom], residual))
                    if value > largest or (value == largest and atom < at):
                        largest, at = value, atom
        # Candidates were lost, or a barred atom set the floor.
        if largest < floors[row] * units[row]:
            for atom in range(atoms.shape[0]):
                if not barred[row, atom]:
                    value = abs(dot(atoms[atom], residual))
                    if value > largest:
                        largest, at = value, atom
        best[row] = largest
        found[row] = at
