"""Which atoms may have the largest correlation, from approximate ones with known error bounds.

A tile holds integer products of coarse residuals and coarse atoms. Scaled back, each is off by at
most a margin; an atom stays a candidate while its correlation plus the margin, its upper bound,
reaches a floor, the largest lower bound that was seen so far.
"""

from __future__ import annotations

import numpy as np

from mergekit_omp.pursuit.compiled import kernel
from mergekit_omp.pursuit.integer_products import ATOMS, RESIDUALS, multiply
from mergekit_omp.pursuit.tiles import dot

CAPACITY = 512
"""Candidates kept for a residual; where more are left, all atoms are decided exactly."""


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
def limit(floor, unit, steepest, widest, extra):  # type: ignore[no-untyped-def]
    """The least product of a tile that may be a candidate's."""
    least = ((floor - unit * widest) / steepest - extra) / unit
    # Cut off, and one less for what float32 rounds away.
    return np.int32(min(max(least * np.float32(1 - 1e-6) - 1, np.float32(0)), np.float32(1 << 30)))


@kernel
def collect(line, low, row, row_scale, atoms, floors, picks, uppers, counts):  # type: ignore[no-untyped-def]
    """Adds the candidates of one tile to those of a residual.

    `line` are the residual's products with the tile, entry x with atom `order[low + x]`. A
    correlation is `line[x] * row_scale[row] * scale[low + x]`, off by at most
    `extra * scale[low + x] + row_scale[row] * margin[low + x]`. A count above what fits says that
    candidates were lost. `atoms` is a tuple: order, scale, margin, the largest scale and the
    largest margin of each tile, and extra.
    """
    order, scale, margin, _, _, extra = atoms
    # Slices: indices that start from zero are known not to be negative, as vectors need.
    scales, margins = scale[low : low + ATOMS], margin[low : low + ATOMS]
    unit = row_scale[row]
    floor = floors[row]
    count = counts[row]
    # Barred atoms are orthogonal to the residual, so they do not raise the floor: `decide` looks
    # after those that are not.
    for x in range(scales.shape[0]):
        value = abs(np.float32(line[x])) * unit
        floor = max(floor, (value - extra) * scales[x] - unit * margins[x])
    for x in range(scales.shape[0]):
        value = abs(np.float32(line[x])) * unit
        upper = (value + extra) * scales[x] + unit * margins[x]
        if upper < floor:
            continue
        if count == picks.shape[1]:
            count = compact(picks[row], uppers[row], count, floor)
        if count < picks.shape[1]:
            picks[row, count] = order[low + x]
            uppers[row, count] = upper
            count += 1
        else:
            count = picks.shape[1] + 1
            break
    floors[row] = floor
    counts[row] = count


@kernel
def sweep(  # type: ignore[no-untyped-def]
    first, last, integers, packed, correction, row_scale, atoms, floors, picks, uppers, counts
):
    """The candidates of residuals `first` to `last` among all packed atoms.

    `first` is a multiple of `RESIDUALS`; `integers` has rows for whole groups.
    """
    _, _, _, steepest, widest, extra = atoms
    products = np.empty((RESIDUALS, ATOMS), np.int32)
    limits = np.full(RESIDUALS, np.int32(1 << 30))
    for tile in range(packed.shape[0]):
        for begin in range(first, last, RESIDUALS):
            stop = min(begin + RESIDUALS, last)
            for row in range(begin, stop):
                limits[row - begin] = limit(
                    floors[row], row_scale[row], steepest[tile], widest[tile], extra
                )
            for row in range(stop, begin + RESIDUALS):
                limits[row - begin] = 1 << 30
            group = integers[begin : begin + RESIDUALS]
            mask = multiply(group, packed[tile], correction[tile], limits, products)
            for bit in range(RESIDUALS):
                if mask >> bit & 1:
                    rest = (row_scale, atoms, floors, picks, uppers, counts)
                    collect(products[bit], tile * ATOMS, begin + bit, *rest)


@kernel
def collect_strip(  # type: ignore[no-untyped-def]
    first, last, products, low, row_scale, atoms, floors, picks, uppers, counts
):
    """The candidates of residuals `first` to `last` among the atoms of several tiles."""
    _, _, _, steepest, widest, extra = atoms
    for at in range(0, products.shape[1], ATOMS):
        tile = (low + at) // ATOMS
        for row in range(first, last):
            line = products[row - first, at : at + ATOMS]
            least = limit(floors[row], row_scale[row], steepest[tile], widest[tile], extra)
            if peak(line) >= least:
                rest = (row_scale, atoms, floors, picks, uppers, counts)
                collect(line, low + at, row, *rest)


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
        if 0 < counts[row] <= picks.shape[1]:
            # The most promising first: what it turns out to be rules out most others.
            likely = 0
            for x in range(counts[row]):
                if uppers[row, x] > uppers[row, likely]:
                    likely = x
            for x in range(-1, counts[row]):
                at_x = likely if x < 0 else x
                atom = picks[row, at_x]
                if uppers[row, at_x] * units[row] < largest or barred[row, atom]:
                    continue
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
