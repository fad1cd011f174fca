"""Pursuit over a Gram matrix by speculation: exact supports at a fraction of the memory traffic.

Batch-OMP (Rubinstein, Zibulevsky and Elad 2008) needs, at each iteration, the correlations of all
atoms with the residual: `a = a0 - sum_l x_l G[s_l]`, for the support `s` and its least-squares
coefficients `x`. Done one iteration at a time this reads every row again and again. Here

1. `guess`: a shortlist of the atoms with the largest correlations is pursued on its own for a few
   iterations: the picks are right unless an atom outside of the list overtakes;
2. `sweep`: the correlations of all atoms at all of these iterations are computed in one pass over
   the rows of the Gram matrix (a small matrix product, tile by tile);
3. `roll_back`: picks are kept up to the first that an outside atom beats.

The Gram matrix holds cosines in fixed point: whichever atoms may have the largest correlation, given
the rounding of theirs (docs/pursuit-bounds.md), have it computed from the vectors themselves. So the
supports are those of the plain algorithm.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int64

from mergekit_omp.kernels.compiled import kernel
from mergekit_omp.pursuit.decision import decide
from mergekit_omp.pursuit.support import extend, orthogonalise, refine, remainder
from mergekit_omp.pursuit.tiles import (
    TILE,
    combine,
    copy,
    count_from,
    dot,
    reaches,
    shift,
    shortlist,
)
from mergekit_omp.pursuit.workspace import Given, Gram, Limits, Outcome, Solved, Work, workspace

TIE = 1e-5
"""An atom outside of the shortlist must beat a guess by this share: less is a tie in float32."""
SHORTEST = 4
"""Iterations in the first block, and by how many the next is longer; `combine` takes fours."""


@kernel
def gather(
    gram: Gram,
    norms: Float[np.ndarray, "atoms"],
    atom: int,
    found: Int64[np.ndarray, "members"],
    out: Float[np.ndarray, "listed"],
) -> None:
    """out = the inner products of an atom with those of the shortlist, from the Gram matrix."""
    line, scale = gram.values[atom], gram.row_scale[atom]
    for x in range(found.shape[0]):
        out[x] = scale * line[found[x]] * norms[found[x]]


@kernel
def choose(work: Work, size: int, members: int, margin: float) -> tuple[int, float]:
    """The place on the shortlist of the atom with the largest correlation, and that correlation.

    Leaves its products with the support. Where only one atom may be it, these also tell what the
    residual has lost since it was last computed.
    """
    given, _, support, block = work
    atoms, found, changes = given.atoms, block.found, block.changes
    slack = block.uppers.dtype.type(margin)
    pick, floor = 0, -1.0
    for x in range(members):
        middle, off = abs(block.local[x]), slack * given.norms[found[x]]
        block.uppers[x] = middle + off
        if middle - off > floor:
            pick, floor = x, middle - off
    several, value = count_from(block.uppers[:members], floor) > 1, 0.0
    if several:
        for p in range(size):
            shift(block.narrow, atoms[support.atoms[p]], -changes[p], block.narrow.shape[0])
            changes[p] = 0
        pick, value = decide(found, block.uppers, members, atoms, block.narrow, -1.0, 1.0)
    atom = atoms[found[pick]]
    for p in range(size):
        support.products[p] = dot(atoms[support.atoms[p]], atom)
    if not several:
        value = float(dot(block.narrow, atom))
        for p in range(size):
            value -= changes[p] * support.products[p]
    return pick, value


@kernel
def guess(work: Work, size: int, members: int, most: int, square: float) -> tuple[int, Outcome]:
    """Pursues the shortlist for `most` iterations, and fewer where precision or need ends.

    `square` is the target's squared norm. Returns how many were made, and why no more.
    """
    given, limits, support, block = work
    norms, made = given.norms, 0
    for step in range(most):
        pick, value = choose(work, size, members, block.margins[step])
        atom = block.found[pick]
        norm = float(norms[atom])
        if abs(value) <= limits.cosine * math.sqrt(square) * norm:
            return made, Outcome.FAINT
        shared = orthogonalise(support, size, support.products)
        if norm * norm - shared < limits.sine * norm * norm:
            return made, Outcome.DEPENDENT
        height = math.sqrt(norm * norm - shared)
        projection = value / height
        remaining = block.left[step] - projection * projection
        if remaining < limits.residual * square:
            return made, Outcome.VANISHING
        block.marks[step] = abs(value)
        extend(support, size, height, projection)
        support.atoms[size] = atom
        gather(given.gram, norms, atom, block.found[:members], block.columns[size])
        # The residual loses the atom but for what the support holds of it.
        support.duals[size] = -1
        size += 1
        for p in range(size):
            change = projection / height * support.duals[p]
            block.changes[p] -= change
            shift(block.local, block.columns[p], change, members)
        block.local[pick] = 0
        made += 1
        block.left[made] = remaining
        record(work, step, size)
        if remaining <= given.tolerance * given.tolerance * square:
            break
    return made, Outcome.SOLVED


@kernel
def record(work: Work, step: int, size: int) -> None:
    """Writes down the coefficients after an iteration, and how far correlations may be off."""
    given, _, support, block = work
    spread, bound = 0.0, 0.0
    for p in range(size):
        coefficient = support.coefficients[p]
        block.history[step, p] = coefficient
        block.weights[step, p] = -coefficient * given.gram.row_scale[support.atoms[p]]
        part = abs(coefficient) * given.norms[support.atoms[p]]
        bound += part
        spread += part * part
    block.weights[step, size:] = 0
    # Rounding errors are uniform and independent: 6.5 standard deviations of their sum, or their
    # largest possible sum if that is less.
    block.margins[step + 1] = given.gram.rounding * min(bound, 3.76 * math.sqrt(spread))


@kernel
def overtaken(row: int, work: Work, step: int, taken: int, low: int, high: int) -> bool:
    """Whether an unlisted atom of a tile beats the guess that followed iteration `step`.

    The support then had `taken` atoms.
    """
    given, _, support, block = work
    values, slack = block.combined[step], block.margins[step + 1]
    level = block.marks[step + 1] * (1 + TIE)
    count = 0
    for x in range(low, high):
        upper = (abs(values[x - low]) + slack) * given.norms[x]
        if not support.listed[x] and upper > level:
            block.suspects[count] = x
            block.ceilings[count] = upper
            count += 1
    if count == 0:
        return False
    residual = block.residuals[step]
    if not block.fresh[step]:
        target, coefficients = given.targets[row], block.history[step]
        remainder(target, given.atoms, support.atoms, taken, coefficients, block.exact)
        copy(block.exact, residual)
        block.fresh[step] = 1
    found = decide(block.suspects, block.ceilings, count, given.atoms, residual, level, 1.0)
    return found[0] >= 0


@kernel
def sweep(row: int, work: Work, size: int, first: int, last: int, checked: int) -> int:
    """Computes the correlations of all atoms after iterations `first` to `last` of a block.

    The block began with a support of `size` atoms. The correlations after its last iteration become
    the current ones. Returns the first of `checked` iterations after which an unlisted atom beats
    the guess that followed, and `checked` if none does.
    """
    given, _, support, block = work
    starts, norms, values = given.starts[row], given.norms, given.gram.values
    combined, margins, marks = block.combined, block.margins, block.marks
    block.weights[last : last + 3] = 0
    weights, rows = block.weights[first:], last - first
    for low in range(0, starts.shape[0], TILE):
        high = min(low + TILE, starts.shape[0])
        combine(starts, values, support.atoms, size + last, weights, rows, low, high, combined)
        for step in range(checked):
            level = marks[step + 1] * (1 + TIE)
            # Called for the few tiles that need it: to pass all that `work` holds takes its time.
            if reaches(combined[step], norms, margins[step + 1], low, high, level) and overtaken(
                row, work, step, size + step + 1, low, high
            ):
                checked = step
                break
        copy(combined[rows - 1], block.current[low:high])
    return checked


@kernel
def roll_back(row: int, work: Work, size: int, kept: int) -> None:
    """Takes back all but `kept` iterations of a block that began with a support of `size` atoms."""
    copy(work.block.history[kept - 1], work.support.coefficients)
    work.support.atoms[size + kept :] = 0
    sweep(row, work, size, kept - 1, kept, 0)


@kernel
def pursue_one(row: int, work: Work) -> tuple[int, Outcome]:
    """Finds the support of a target, and its size."""
    given, limits, support, block = work
    target, norms = given.targets[row], given.norms
    coefficients, sparsity = support.coefficients, support.coefficients.shape[0]
    support.listed[:], support.atoms[:], support.coefficients[:] = 0, 0, 0
    copy(given.starts[row], block.current)
    square = remainder(target, given.atoms, support.atoms, 0, coefficients, block.exact) ** 2
    enough = given.tolerance * given.tolerance * square
    size, remaining, margin = 0, square, 0.0
    share, longest = 0.5, SHORTEST
    while size < sparsity and remaining > enough:
        for p in range(size):
            block.current[support.atoms[p]] = 0
        want = limits.listed // 2
        bounds, found = block.bounds, block.found
        members, share = shortlist(block.current, norms, margin, want, share, bounds, found)
        if members == 0 or (members > limits.listed and margin > 0):
            return size, Outcome.CROWDED
        members = min(members, limits.listed)
        for x in range(members):
            block.local[x] = block.current[found[x]] * norms[found[x]]
            support.listed[found[x]] = 1
        for p in range(size):
            gather(given.gram, norms, support.atoms[p], block.found[:members], block.columns[p])
        remainder(target, given.atoms, support.atoms, size, coefficients, block.exact)
        copy(block.exact, block.narrow)
        block.fresh[:], block.changes[:] = 0, 0
        block.margins[0], block.left[0] = margin, remaining
        made, why = guess(work, size, members, min(longest, sparsity - size), square)
        if made == 0:
            return size, why
        last = size + made == sparsity or block.left[made] <= enough
        rows = made - 1 if last else made
        kept = made
        if rows > 0 and limits.verified:
            kept = sweep(row, work, size, 0, rows, made - 1) + 1
        elif rows > 0:
            sweep(row, work, size, rows - 1, rows, 0)
        longest = min(longest + SHORTEST, limits.longest) if why == Outcome.SOLVED else SHORTEST
        for x in range(members):
            support.listed[found[x]] = 0
        if kept < made:
            roll_back(row, work, size, kept)
            longest = SHORTEST
        size += kept
        remaining, margin = block.left[kept], block.margins[kept]
        for p in range(size):
            support.listed[support.atoms[p]] = 1
    return size, Outcome.SOLVED


@kernel
def pursue(first: int, last: int, given: Given, limits: Limits, solved: Solved) -> None:
    """Solves targets `first` to `last`, writing their rows; those of unsolved ones are void."""
    work = workspace(given, limits, solved.indices.shape[1])
    support = work.support
    for row in range(first, last):
        size, outcome = pursue_one(row, work)
        if outcome == Outcome.SOLVED:
            norm, sound = refine(given.targets[row], given.atoms, support, size, limits.cosine)
            if not sound:
                outcome = Outcome.INACCURATE
            solved.residual_norms[row] = norm
            for p in range(size):
                solved.indices[row, p] = support.atoms[p]
                solved.coefficients[row, p] = support.coefficients[p]
        solved.outcomes[row] = outcome
