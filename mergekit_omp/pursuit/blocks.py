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
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int, Int64, UInt8

from mergekit_omp.pursuit.compiled import kernel
from mergekit_omp.pursuit.decision import decide
from mergekit_omp.pursuit.support import Support, extend, orthogonalise, refine, remainder
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

TIE = 1e-5
"""An atom outside of the shortlist must beat a guess by this share: less is a tie in float32."""
SHORTEST = 4
"""Iterations in the first block, and by how many the next is longer; `combine` takes fours."""


class Outcome(IntEnum):
    """How a target ended. All but the first need more precision than a Gram matrix gives."""

    SOLVED = 0
    """Its support is that of the plain algorithm."""
    CROWDED = 1
    """More atoms may have the largest correlation than a shortlist holds, or all are zero."""
    FAINT = 2
    """The largest correlation is too small, next to the target, to be told from rounding."""
    DEPENDENT = 3
    """The next atom is nearly dependent on the support."""
    VANISHING = 4
    """The residual becomes too short, next to the target, for its square to be known."""
    INACCURATE = 5
    """The residual stays correlated with the support: its factor is too poor."""


class Gram(NamedTuple):
    """Inner products of all atoms: entry i, j is `row_scale[i] * values[i, j] * norms[j]`.

    Rows of `values` are longer than the atoms are many, so that rows do not share cache sets.
    `rounding` bounds the error of an entry relative to the norms of its atoms. `short` says whether
    the atoms are numbers of bfloat16.
    """

    values: Int[np.ndarray, "atoms row"]
    row_scale: Float[np.ndarray, "atoms"]
    rounding: float
    short: bool


class Given(NamedTuple):
    """What is to be solved; `starts` are the correlations of targets and atoms, by their norms."""

    targets: Float[np.ndarray, "targets dim"]
    starts: Float[np.ndarray, "targets atoms"]
    atoms: Float[np.ndarray, "atoms dim"]
    norms: Float[np.ndarray, "atoms"]
    gram: Gram
    tolerance: float


class Limits(NamedTuple):
    """What a Gram matrix can tell, and how far a pursuit speculates.

    The least squared sine of an atom to the support, squared residual next to the target's, and
    cosine of residual and atom next to the target's norm; iterations of a block (a multiple of 4),
    atoms on a shortlist, and whether step 2 is taken.
    """

    sine: float
    residual: float
    cosine: float
    longest: int
    listed: int
    verified: bool


class Solved(NamedTuple):
    """What comes out: see `SparseCode` and `Outcome`."""

    indices: Int64[np.ndarray, "targets k"]
    coefficients: Float[np.ndarray, "targets k"]
    residual_norms: Float[np.ndarray, "targets"]
    outcomes: Int64[np.ndarray, "targets"]


class Block(NamedTuple):
    """One target's correlations, and a block of iterations in flight. Row i of what has `longest`
    rows is of iteration i; entry i of what has one more is of the residual before it."""

    current: Float[np.ndarray, "atoms"]
    """All correlations by the norms of atoms, as of the last verified iteration, and bounds."""
    bounds: Float[np.ndarray, "atoms"]
    found: Int64[np.ndarray, "listed"]
    """The shortlist, with its correlations, their upper bounds and its products with the support."""
    local: Float[np.ndarray, "listed"]
    uppers: Float[np.ndarray, "listed"]
    columns: Float[np.ndarray, "slots listed"]
    marks: Float64[np.ndarray, "longest"]
    """The largest correlation, which the guess was picked for."""
    margins: Float64[np.ndarray, "longest+1"]
    """How far correlations may be off, in units of the atoms' norms."""
    left: Float64[np.ndarray, "longest+1"]
    """Squared norms of residuals."""
    history: Float64[np.ndarray, "longest k"]
    """Coefficients, and what they take away in units of the Gram matrix's rows."""
    weights: Float[np.ndarray, "iterations slots"]
    exact: Float64[np.ndarray, "dim"]
    """The residual, and in the working dtype: of some guess, since which coefficients changed."""
    narrow: Float[np.ndarray, "dim"]
    changes: Float64[np.ndarray, "k"]
    residuals: Float[np.ndarray, "iterations dim"]
    """The residual after the guess, where `fresh` says that it was computed."""
    fresh: UInt8[np.ndarray, "longest"]
    combined: Float[np.ndarray, "longest tile"]
    """Correlations of a tile of atoms, by their norms, and those that may beat a guess."""
    suspects: Int64[np.ndarray, "tile"]
    ceilings: Float[np.ndarray, "tile"]


class Work(NamedTuple):
    """All that the steps below share."""

    given: Given
    limits: Limits
    support: Support
    block: Block


@kernel
def workspace(given: Given, limits: Limits, sparsity: int) -> Work:
    """Room for one target at a time."""
    count, dim = given.atoms.shape
    slots = (sparsity + 3) // 4 * 4
    longest, listed = limits.longest, limits.listed
    kind = given.starts.dtype
    rows, marks = np.zeros((4, sparsity)), np.zeros((3, longest + 1))
    ids, marked = np.zeros(slots, np.int64), np.zeros(count, np.uint8)
    square = np.zeros((sparsity, sparsity))
    support = Support(ids, marked, square, rows[0], rows[1], rows[2], rows[3])
    every, few = np.empty((2, count), kind), np.empty((2, listed), kind)
    # `combine` takes rows of weights four by four.
    history, weights = np.zeros((longest, sparsity)), np.zeros((longest + 3, slots), kind)
    residuals, combined = np.zeros((longest + 1, dim), kind), np.empty((longest, TILE + 16), kind)
    block = Block(
        *(every[0], every[1], np.empty(listed, np.int64), few[0], few[1]),
        *(np.empty((slots, listed), kind), marks[0], marks[1], marks[2], history, weights),
        *(np.zeros(dim), residuals[longest], np.zeros(sparsity), residuals),
        *(np.zeros(longest, np.uint8), combined),
        *(np.empty(TILE, np.int64), np.empty(TILE, kind)),
    )
    return Work(given, limits, support, block)


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
        pick, value = decide(found, block.uppers, members, atoms, block.narrow, -1.0)
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
    found = decide(block.suspects, block.ceilings, count, given.atoms, residual, level)
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
