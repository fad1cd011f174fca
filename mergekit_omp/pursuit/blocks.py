"""Pursuit over a Gram matrix by speculation: exact supports at a fraction of the memory traffic.

Batch-OMP (Rubinstein, Zibulevsky and Elad 2008) needs, at each iteration, the correlations of all
atoms with the residual: `a = a0 - sum_l x_l G[s_l]`, for the support `s` and its least-squares
coefficients `x`. Done one iteration at a time this reads every row again and again. Here

1. `guess`: a shortlist of the atoms with the largest correlations is pursued on its own for a few
   iterations: the picks are right unless an atom outside of the list overtakes;
2. `verify`: the correlations of all atoms at all of these iterations are computed in one pass over
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
    combine_one,
    copy,
    correlate,
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
    `rounding` bounds the error of an entry relative to the norms of its atoms.
    """

    values: Int[np.ndarray, "atoms row"]
    row_scale: Float[np.ndarray, "atoms"]
    rounding: float


class Given(NamedTuple):
    """What is to be solved; `starts` are the correlations of targets and atoms."""

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
    """All correlations, as of the last verified iteration."""
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
    """Coefficients, and the same in units of the Gram matrix's rows."""
    weights: Float[np.ndarray, "longest slots"]
    exact: Float64[np.ndarray, "dim"]
    """The residual, and in the working dtype as guesses change it."""
    narrow: Float[np.ndarray, "dim"]
    residuals: Float[np.ndarray, "longest dim"]
    """The residual after the guess, where `fresh` says that it was computed."""
    fresh: UInt8[np.ndarray, "longest"]
    combined: Float[np.ndarray, "longest tile"]
    """Correlations of a tile of atoms, and those of them that may beat a guess."""
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
    ids, marked = np.zeros(slots, np.int64), np.zeros(count, np.uint8)
    rows = np.zeros((4, sparsity))
    square = np.zeros((sparsity, sparsity))
    support = Support(ids, marked, square, rows[0], rows[1], rows[2], rows[3])
    current, found = np.empty(count, kind), np.empty(listed, np.int64)
    local, uppers = np.empty(listed, kind), np.empty(listed, kind)
    columns = np.empty((slots, listed), kind)
    marks = np.zeros((3, longest + 1))
    history, weights = np.zeros((longest, sparsity)), np.zeros((longest, slots), kind)
    exact, narrow, residuals = np.zeros(dim), np.zeros(dim, kind), np.zeros((longest, dim), kind)
    fresh, combined = np.zeros(longest, np.uint8), np.empty((longest, TILE + 16), kind)
    suspects, ceilings = np.empty(TILE, np.int64), np.empty(TILE, kind)
    block = Block(
        *(current, found, local, uppers, columns, marks[0], marks[1], marks[2], history, weights),
        *(exact, narrow, residuals, fresh, combined, suspects, ceilings),
    )
    return Work(given, limits, support, block)


@kernel
def gather(work: Work, atom: int, members: int, out: Float[np.ndarray, "listed"]) -> None:
    """out = the inner products of an atom with those of the shortlist, from the Gram matrix."""
    gram, norms, found = work.given.gram, work.given.norms, work.block.found
    line, scale = gram.values[atom], gram.row_scale[atom]
    for x in range(members):
        out[x] = scale * line[found[x]] * norms[found[x]]


@kernel
def guess(work: Work, size: int, members: int, most: int, square: float) -> tuple[int, Outcome]:
    """Pursues the shortlist for `most` iterations, and fewer where precision or need ends.

    `square` is the target's squared norm. Returns how many were made, and why no more.
    """
    given, limits, support, block = work
    atoms, norms = given.atoms, given.norms
    made = 0
    for step in range(most):
        margin = block.uppers.dtype.type(block.margins[step])
        for x in range(members):
            block.uppers[x] = abs(block.local[x]) + margin * norms[block.found[x]]
        pick, value = decide(block.found, block.uppers, members, 1.0, atoms, block.narrow, -1.0)
        atom = block.found[pick]
        norm = float(norms[atom])
        if abs(value) <= limits.cosine * math.sqrt(square) * norm:
            return made, Outcome.FAINT
        for p in range(size):
            support.products[p] = dot(atoms[support.atoms[p]], atoms[atom])
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
        gather(work, atom, members, block.columns[size])
        # The residual loses the atom but for what the support holds of it.
        support.duals[size] = -1
        size += 1
        for p in range(size):
            change = projection / height * support.duals[p]
            shift(block.local, block.columns[p], change, members)
            shift(block.narrow, atoms[support.atoms[p]], change, block.narrow.shape[0])
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
        block.weights[step, p] = coefficient * given.gram.row_scale[support.atoms[p]]
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
    values, norms = block.combined[step], given.norms
    level = block.marks[step + 1] * (1 + TIE)
    slack = block.margins[step + 1]
    if not reaches(values, norms, slack, low, high, level):
        return False
    count = 0
    for x in range(low, high):
        upper = abs(values[x - low]) + slack * norms[x]
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
    found = decide(block.suspects, block.ceilings, count, 1.0, given.atoms, residual, level)
    return found[0] >= 0


@kernel
def verify(row: int, work: Work, size: int, made: int, rows: int) -> int:
    """The first of `rows` iterations after which an unlisted atom beats the guess; `rows` if none.

    Correlations after the last of these become the current ones, if more are to come.
    """
    given, _, support, block = work
    count = given.starts.shape[1]
    padded = (rows + 3) // 4 * 4
    block.weights[rows:padded] = 0
    wrong = rows
    for low in range(0, count, TILE):
        high = min(low + TILE, count)
        values = given.gram.values
        combine(values, support.atoms, size, block.weights, padded, low, high, block.combined)
        for step in range(rows):
            correlate(given.starts[row], given.norms, low, high, block.combined[step])
            if step + 1 >= made or step >= wrong:
                continue
            if overtaken(row, work, step, size - made + step + 1, low, high):
                wrong = step
        if rows == made:
            copy(block.combined[rows - 1], block.current[low:high])
    return wrong


@kernel
def correlate_all(row: int, work: Work, size: int, step: int) -> None:
    """The current correlations become those after an iteration of the block."""
    given, _, support, block = work
    count, current = given.starts.shape[1], block.current
    combine_one(given.gram.values, support.atoms, size, block.weights[step], 0, count, current)
    correlate(given.starts[row], given.norms, 0, count, current)


@kernel
def roll_back(row: int, work: Work, size: int, step: int) -> None:
    """Takes back what was guessed after an iteration; the support then had `size` atoms."""
    copy(work.block.history[step], work.support.coefficients)
    work.support.atoms[size:] = 0
    correlate_all(row, work, size, step)


@kernel
def pursue_one(row: int, work: Work) -> tuple[int, Outcome]:
    """Finds the support of a target, and its size."""
    given, limits, support, block = work
    target = given.targets[row]
    sparsity = support.coefficients.shape[0]
    support.listed[:], support.atoms[:], support.coefficients[:] = 0, 0, 0
    copy(given.starts[row], block.current)
    square = 0.0
    for x in range(target.shape[0]):
        square += float(target[x]) * float(target[x])
    enough = given.tolerance * given.tolerance * square
    size, remaining, margin = 0, square, 0.0
    share, longest = 0.5, SHORTEST
    while size < sparsity and remaining > enough:
        for p in range(size):
            block.current[support.atoms[p]] = 0
        want = limits.listed // 2
        members, share = shortlist(block.current, given.norms, margin, want, share, block.found)
        if members == 0 or (members > limits.listed and margin > 0):
            return size, Outcome.CROWDED
        members = min(members, limits.listed)
        for x in range(members):
            block.local[x] = block.current[block.found[x]]
            support.listed[block.found[x]] = 1
        for p in range(size):
            gather(work, support.atoms[p], members, block.columns[p])
        coefficients = support.coefficients
        remainder(target, given.atoms, support.atoms, size, coefficients, block.exact)
        copy(block.exact, block.narrow)
        block.fresh[:] = 0
        block.margins[0], block.left[0] = margin, remaining
        made, why = guess(work, size, members, min(longest, sparsity - size), square)
        if made == 0:
            return size, why
        last = size + made == sparsity or block.left[made] <= enough
        rows = made - 1 if last else made
        kept = made
        if limits.verified and rows > 0:
            kept = verify(row, work, size + made, made, rows) + 1
        elif rows > 0:
            correlate_all(row, work, size + made, rows - 1)
        longest = min(longest + SHORTEST, limits.longest) if why == Outcome.SOLVED else SHORTEST
        for x in range(members):
            support.listed[block.found[x]] = 0
        if kept < made:
            roll_back(row, work, size + kept, kept - 1)
            longest = SHORTEST
        kept = min(kept, made)
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
