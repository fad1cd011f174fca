"""Pursuit over a Gram matrix by speculation: exact supports at a fraction of the memory traffic.

Batch-OMP (Rubinstein, Zibulevsky and Elad 2008) needs, at each iteration, the correlations of all
atoms with the residual: `a = a0 - sum_l x_l G[s_l]`, for the support `s` and its least-squares
coefficients `x`. Done one iteration at a time this reads every row again and again. Here

1. a shortlist of the atoms with the largest correlations is pursued on its own for a few
   iterations: the picks are guesses, right unless an atom outside of the list overtakes;
2. the correlations of all atoms at all of these iterations are then computed in one pass over the
   rows of the Gram matrix (a small matrix product, tile by tile);
3. picks are kept up to the first iteration at which an outside atom beats the guess.

So the supports are those of the plain algorithm. The Gram matrix may be of integers (cosines in
fixed point): then whichever atoms may have the largest correlation, given the rounding of theirs,
have it computed from the vectors themselves.
"""

from __future__ import annotations

import math

import numpy as np

from mergekit_omp.pursuit.compiled import kernel
from mergekit_omp.pursuit.support import extend, orthogonalise, refine, remainder
from mergekit_omp.pursuit.tiles import (
    TILE,
    combine,
    combine_one,
    correlate,
    dot,
    reaches,
    shortlist,
)

TIE = 1e-5
"""An atom outside of the shortlist must beat a guess by this share: less is a tie in float32."""

SOLVED, HARD = 0, 1
"""How a target ended. A hard one needs more precision than a Gram matrix gives."""


@kernel
def gather(gram, row_scale, column_scale, atom, found, members, out):  # type: ignore[no-untyped-def]
    """out = the inner products of an atom with those of a shortlist, from the Gram matrix."""
    line = gram[atom]
    scale = row_scale[atom]
    for x in range(members):
        out[x] = scale * line[found[x]] * column_scale[found[x]]


@kernel
def shift(values, change, step, count):  # type: ignore[no-untyped-def]
    """values += step * change, for the first `count`."""
    factor = values.dtype.type(step)
    for x in range(count):
        values[x] += factor * change[x]


@kernel
def largest_at(values, count):  # type: ignore[no-untyped-def]
    """Where the largest magnitude is; of equals the first."""
    at = 0
    for x in range(count):
        if abs(values[x]) > abs(values[at]):
            at = x
    return at


@kernel
def decide(values, count, found, norms, margin, atoms, residual):  # type: ignore[no-untyped-def]
    """The same for values that are off by up to `margin` times the norms: where, and the value."""
    floor = -1.0
    for x in range(count):
        floor = max(floor, abs(values[x]) - margin * norms[found[x]])
    at, best = 0, 0.0
    for x in range(count):
        if abs(values[x]) + margin * norms[found[x]] >= floor:
            value = float(dot(atoms[found[x]], residual))
            if abs(value) > abs(best):
                at, best = x, value
    return at, best


@kernel
def pursue(  # type: ignore[no-untyped-def]
    first,
    last,
    targets,
    atoms,
    starts,
    gram,
    rounding,
    row_scale,
    column_scale,
    norms,
    tolerance,
    limits,
    longest,
    listed,
    verified,
    indices,
    coefficients,
    residual_norms,
    states,
):
    """Solves targets `first` to `last`, writing their rows of the last four arrays.

    starts (targets, atoms) are the correlations of targets and atoms. Entry i, j of the Gram
    matrix is `row_scale[i] * gram[i, j] * column_scale[j]`, off by at most `rounding` times the
    norms of both atoms; 0 says that it is exact. limits: the least squared sine of an atom to
    the support, the least squared relative residual, and the least cosine that are trusted.
    A block has at most `longest` iterations (a multiple of 4) over `listed` atoms; `verified`
    says whether step 2 above is taken.
    """
    count = starts.shape[1]
    sparsity = indices.shape[1]
    slots = (sparsity + 3) // 4 * 4
    dim = atoms.shape[1]
    exact = rounding == 0
    real = starts[:1, 0]
    support = np.zeros(slots, np.int64)
    seen = np.zeros(count, np.uint8)
    found = np.empty(listed, np.int64)
    current = np.empty(count, real.dtype)
    local = np.empty(listed, real.dtype)
    columns = np.empty((slots, listed), real.dtype)
    combined = np.empty((longest, TILE + 16), real.dtype)
    weights = np.zeros((longest, slots), real.dtype)
    marks = np.zeros(longest, real.dtype)
    margins = np.zeros(longest + 1)
    history = np.zeros((longest, sparsity))
    left = np.zeros(longest + 1)
    factor = np.zeros((sparsity, sparsity))
    products = np.zeros(sparsity)
    shares = np.zeros(sparsity)
    duals = np.zeros(sparsity)
    fit = np.zeros(sparsity)
    residual = np.zeros(dim)
    narrow = np.zeros(dim, real.dtype)
    residuals = np.zeros((longest, dim), real.dtype)
    fresh = np.zeros(longest, np.uint8)
    for row in range(first, last):
        start = starts[row]
        seen[:] = 0
        current[:] = start
        support[:] = 0
        fit[:] = 0
        size = 0
        share = 0.5
        block = 4
        margin = 0.0
        total = 0.0
        for x in range(dim):
            total += float(targets[row, x]) * float(targets[row, x])
        length = math.sqrt(total)
        state = SOLVED
        remaining = total
        while size < sparsity and remaining > tolerance * tolerance * total:
            # 1. guesses, from a shortlist
            for p in range(size):
                current[support[p]] = 0
            members, share = shortlist(current, norms, margin, listed // 2, share, found)
            # Nothing is listed where all correlations are zero.
            if members == 0 or (members > listed and margin > 0):
                state = HARD
                break
            members = min(members, listed)
            for x in range(members):
                local[x] = current[found[x]]
                seen[found[x]] = 1
            for p in range(size):
                gather(gram, row_scale, column_scale, support[p], found, members, columns[p])
            if not exact:
                remainder(targets[row], atoms, support, size, fit, residual)
                narrow[:] = residual
            margins[0] = margin
            fresh[:] = 0
            begun = size
            left[0] = remaining
            steps = min(block, sparsity - size)
            made = 0
            halted = False
            for step in range(steps):
                if exact:
                    pick = largest_at(local, members)
                    value = float(local[pick])
                else:
                    pick, value = decide(local, members, found, norms, margins[made], atoms, narrow)
                best = abs(value)
                atom = found[pick]
                norm = float(norms[atom])
                if best <= limits[2] * length * norm:
                    halted = True
                    break
                for p in range(size):
                    if exact:
                        products[p] = columns[p, pick]
                    else:
                        products[p] = dot(atoms[support[p]], atoms[atom])
                square = norm * norm
                height = square - orthogonalise(factor, size, products, shares, duals)
                if height < limits[0] * square:
                    halted = True
                    break
                height = math.sqrt(height)
                projection = value / height
                if remaining - projection * projection < limits[1] * total:
                    halted = True
                    break
                marks[step] = best
                extend(factor, size, shares, duals, height, projection, fit)
                stride = projection / height
                gather(gram, row_scale, column_scale, atom, found, members, columns[size])
                for p in range(size):
                    shift(local, columns[p], stride * duals[p], members)
                shift(local, columns[size], -stride, members)
                local[pick] = 0
                if not exact:
                    for p in range(size):
                        shift(narrow, atoms[support[p]], stride * duals[p], dim)
                    shift(narrow, atoms[atom], -stride, dim)
                support[size] = atom
                size += 1
                remaining -= projection * projection
                made += 1
                left[made] = remaining
                spread = 0.0
                bound = 0.0
                for p in range(size):
                    history[step, p] = fit[p]
                    weights[step, p] = fit[p] * row_scale[support[p]]
                    part_norm = abs(fit[p]) * norms[support[p]]
                    bound += part_norm
                    spread += part_norm * part_norm
                for p in range(size, slots):
                    weights[step, p] = 0
                # Rounding errors are uniform and independent: 6.5 standard deviations of their
                # sum (1 in 10^10), or their largest possible sum if that is less.
                margins[made] = rounding * min(bound, 3.76 * math.sqrt(spread))
                if remaining <= tolerance * tolerance * total:
                    break
            if made == 0:
                state = HARD
                break
            # 2. all atoms at all of these iterations
            done = size == sparsity or remaining <= tolerance * tolerance * total
            rows = made - 1 if done else made
            padded = (rows + 3) // 4 * 4
            for step in range(rows, padded):
                weights[step, :] = 0
            wrong = rows
            if verified and rows > 0:
                for p in range(begun, size):
                    seen[support[p]] = 1
                for low in range(0, count, TILE):
                    high = min(low + TILE, count)
                    combine(gram, support, size, weights, padded, low, high, combined)
                    for step in range(rows):
                        values = combined[step]
                        correlate(start, column_scale, low, high, values)
                        if step + 1 >= made or step >= wrong:
                            continue
                        level = marks[step + 1] * (1 + TIE)
                        slack = margins[step + 1]
                        if not reaches(values, norms, slack, low, high, level):
                            continue
                        for x in range(low, high):
                            if seen[x] or abs(values[x - low]) + slack * norms[x] <= level:
                                continue
                            truth = abs(values[x - low])
                            if not exact:
                                if not fresh[step]:
                                    taken = begun + step + 1
                                    remainder(
                                        targets[row],
                                        atoms,
                                        support,
                                        taken,
                                        history[step],
                                        residual,
                                    )
                                    residuals[step, :] = residual
                                    fresh[step] = 1
                                truth = abs(dot(atoms[x], residuals[step]))
                            if truth > level:
                                wrong = step
                                break
                    if not done:
                        current[low:high] = combined[rows - 1, : high - low]
            elif rows > 0:
                combine_one(gram, support, size, weights[rows - 1], 0, count, current)
                correlate(start, column_scale, 0, count, current)
            margin = margins[made]
            for x in range(members):
                seen[found[x]] = 0
            # 3. back to the last pick that is certain
            if wrong < rows and wrong + 1 < made:
                size = begun + wrong + 1
                remaining = left[wrong + 1]
                margin = margins[wrong + 1]
                fit[:] = history[wrong]
                for p in range(begun, begun + made):
                    seen[support[p]] = 0
                support[size:] = 0
                combine_one(gram, support, size, weights[wrong], 0, count, current)
                correlate(start, column_scale, 0, count, current)
                block = 4
            elif halted:
                block = 4
            else:
                block = min(block + 4, longest)
            for p in range(size):
                seen[support[p]] = 1
        if state == SOLVED:
            norm = refine(targets[row], atoms, support, size, factor, fit, 2, limits[2])
            if norm < 0:
                state = HARD
            residual_norms[row] = norm
            for p in range(size):
                indices[row, p] = support[p]
                coefficients[row, p] = fit[p]
        states[row] = state
