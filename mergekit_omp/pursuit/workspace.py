"""What a pursuit over a Gram matrix is given, works on, and returns."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int, Int64, UInt8

from mergekit_omp.kernels.compiled import kernel
from mergekit_omp.pursuit.support import Support
from mergekit_omp.pursuit.tiles import TILE


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
