"""Pursuit by shortlists: one sweep over all atoms serves several iterations.

A sweep finds the atom of the largest correlation, and lists those that come next. A pick moves
correlations by little, so the following picks are most likely on the list: they are guessed among
its members, in the working dtype, until the residual has turned so far that an atom outside of the
list may have overtaken them. Whether one has is for `verification` to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mergekit_omp.pursuit import candidates
from mergekit_omp.pursuit.basis import split, take
from mergekit_omp.pursuit.compiled import kernel
from mergekit_omp.pursuit.eight_bit import EightBit, Kept
from mergekit_omp.pursuit.lockstep import State
from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.sparse_code import SparseCode
from mergekit_omp.pursuit.threads import in_threads
from mergekit_omp.pursuit.tiles import dot

WANTED = 250
"""Atoms on a list, about."""
SAMPLE = 2048
"""Atoms that tell how large a correlation must be for a list of that length."""
MEMBER_CAUTION = 2.5
"""How far one that is listed is thought to rise since it was last looked at, in the same terms;
where a list has room for all atoms, all are looked at."""


@dataclass(frozen=True, eq=False)
class Trail:
    """How a pursuit came to its supports: what it takes to check the guesses among its picks."""

    guessed: Bool[Tensor, "targets k"]
    largest: Float[Tensor, "targets k"]
    """The correlation of each guess, in magnitude, when it was made."""
    factor: Float[Tensor, "targets k k"]
    projections: Float[Tensor, "targets k"]


def solve_listed(problem: Problem, search: EightBit, caution: float) -> tuple[SparseCode, Trail]:
    """Solves all targets of a problem at once; every pick but the first may be a guess.

    `caution` is how far an atom that is not listed is thought to rise when the residual turns: so
    many times the sine of the turn times the correlation at the end of the list. 0: guess on;
    infinity: never guess.
    """
    state = State(problem)
    lists = _Lists(problem, search, caution)
    guessed = torch.zeros(state.indices.shape, dtype=torch.bool)
    largest = torch.zeros_like(state.projections)
    while len(rows := state.active):
        state.advance(rows, *lists.sweep(rows, state))
        rows = rows[state.searching[rows]]
        lists.guess(rows, state, guessed, largest)
        state.refresh(rows)
    return state.finish(), Trail(guessed, largest, state.factor, state.projections)


class _Lists:
    """A list of atoms for each target in flight, and what bounds the correlations of the others."""

    def __init__(self, problem: Problem, search: EightBit, caution: float) -> None:
        self.problem = problem
        self.caution = caution
        self.member_caution = MEMBER_CAUTION
        if len(problem.atoms) <= candidates.CAPACITY:
            self.member_caution = 1e9
        self.search = search
        count = len(problem.targets)
        every = max(1, len(problem.atoms) // SAMPLE)
        self.sample = problem.atoms[::every]
        self.picks = np.zeros((count, candidates.CAPACITY), np.int64)
        self.counts = np.zeros(count, np.int64)
        # The floor of the last sweep, in units of the residual's norm; 0 before the first.
        self.floors = torch.zeros(count)
        self.values = problem.targets.new_zeros(count, candidates.CAPACITY)
        self.seen = torch.zeros_like(self.values)
        self.margins = problem.targets.new_zeros(count)
        self.levels = problem.targets.new_zeros(count)
        self.lengths = problem.targets.new_zeros(count)

    def sweep(
        self, rows: Int64[Tensor, "rows"], state: State
    ) -> tuple[Float[Tensor, "rows"], Int64[Tensor, "rows"]]:
        """Renews the lists of some targets; the atoms of the largest correlations are certain."""
        fresh = rows[self.floors[rows] == 0]
        if len(fresh):
            self.floors[fresh] = self._estimated(state.residuals_of(fresh))
        self._list(rows, state)
        best, found = self._certain(rows, state)
        # Correlations fell more than was foreseen: a list without the largest is of no use.
        missed = (best < self.levels[rows]).nonzero().squeeze(1)
        if len(missed):
            again = rows[missed]
            self.floors[again] = self._estimated(state.residuals_of(again)) / 2
            self._list(again, state)
            best[missed], found[missed] = self._certain(again, state)
            missed = missed[best[missed] < self.levels[rows[missed]]]
        if len(missed):
            again = rows[missed]
            best[missed], found[missed] = self.search.find(
                state.residuals[again], state.barred[again]
            )
        return best, found

    def guess(
        self,
        rows: Int64[Tensor, "rows"],
        state: State,
        guessed: Bool[Tensor, "targets k"],
        largest: Float[Tensor, "targets k"],
    ) -> None:
        """Adds atoms of their lists to supports while it is likely that no other is better."""
        problem = state.problem
        precision = problem.precision
        limits = np.array([precision.correlation, precision.dependence, problem.tolerance])
        lists = (self.values, self.seen, self.levels, self.lengths)
        states = (
            *(state.residuals, state.basis, state.factor, state.projections),
            *(state.indices, state.sizes, state.barred, state.open, guessed, largest),
        )
        arguments = (
            *(tensor.numpy() for tensor in (problem.atoms, problem.atom_norms)),
            problem.target_norms.numpy(),
            limits,
            np.array([self.member_caution, self.caution]),
            self.picks,
            self.counts,
            *(tensor.numpy() for tensor in lists),
            *(tensor.numpy() for tensor in states),
        )
        at = rows.numpy()
        in_threads(lambda first, last: pursue_list(first, last, at, *arguments), len(at))

    def _estimated(self, residuals: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows"]:
        """The floor that about as many atoms reach as are wanted."""
        if len(self.problem.atoms) <= candidates.CAPACITY:
            return torch.zeros(len(residuals))
        sizes = (residuals @ self.sample.T).abs_()
        share = WANTED / len(self.problem.atoms)
        rank = min(len(self.sample), math.ceil(share * len(self.sample)))
        sizes = sizes.topk(rank, dim=1).values[:, -1]
        lengths = torch.linalg.vector_norm(residuals, dim=1)
        return (sizes / (lengths * self.search.top)).float()

    def _list(self, rows: Int64[Tensor, "rows"], state: State) -> None:
        residuals = state.residuals_of(rows)
        kept = Kept.empty(len(rows))
        kept.floors[:] = self.floors[rows].numpy()
        units, row_scale = self.search.screen(residuals, kept, keep=WANTED)
        counts = torch.from_numpy(kept.counts)
        lost = counts > candidates.CAPACITY
        at = rows.numpy()
        self.picks[at] = kept.picks
        self.counts[at] = torch.where(lost, 0, counts).numpy()
        margins = torch.from_numpy(self.search.margins_of(kept, row_scale))
        values = torch.from_numpy(kept.uppers) - margins
        self.values[rows] = values.to(units.dtype) * units[:, None]
        self.seen[rows] = 0
        self.margins[rows] = margins.amax(dim=1).to(units.dtype) * units
        floors = torch.from_numpy(kept.floors)
        self.lengths[rows] = torch.linalg.vector_norm(residuals, dim=1)
        self.levels[rows] = torch.where(lost, torch.inf, floors.to(units.dtype) * units)
        # Of normal tails: the share of atoms beyond changes with the square of the floor.
        longer = (counts.clamp(min=1) / WANTED).log_().clamp_(-2, 2)
        self.floors[rows] = floors * (1 + longer / 10)

    def _certain(
        self, rows: Int64[Tensor, "rows"], state: State
    ) -> tuple[Float[Tensor, "rows"], Int64[Tensor, "rows"]]:
        """The largest of each list, right after the sweep."""
        best = state.residuals.new_empty(len(rows))
        found = torch.empty(len(rows), dtype=torch.int64)
        tensors = (rows, state.residuals, self.margins, self.problem.atoms, state.barred)
        arguments = (
            *(tensor.numpy() for tensor in tensors),
            *(self.values.numpy(), self.seen.numpy(), self.picks, self.counts),
            *(best.numpy(), found.numpy()),
        )
        in_threads(lambda first, last: best_of_lists(first, last, *arguments), len(rows))
        return best, found


@kernel
def best_listed(  # type: ignore[no-untyped-def]
    residual, slack, reach, turned, atoms, barred, values, seen, picks, count
):
    """The largest correlation of a list, in magnitude, and its atom; of equals the first.

    `values` are correlations as they were when the squared sine of the residual's turn, which is
    `turned` now, was `seen`. An atom is not looked at where it is thought to be below the largest:
    it may have risen by the slack, and by `reach` times the sine of the turn since. -1 where
    nothing is listed.
    """
    largest = residual[0] * 0 - 1
    where = 0
    likely = 0
    for x in range(count):
        if values[x] > values[likely]:
            likely = x
    for x in range(-1 if count else 0, count):
        place = likely if x < 0 else x
        atom = picks[place]
        rise = slack + reach * math.sqrt(max(turned - seen[place], 0))
        if values[place] + rise < largest or barred[atom]:
            continue
        value = abs(dot(atoms[atom], residual))
        values[place] = value
        seen[place] = turned
        if value > largest or (value == largest and atom < where):
            largest, where = value, atom
    return largest, where


@kernel
def best_of_lists(  # type: ignore[no-untyped-def]
    first, last, rows, residuals, slack, atoms, barred, values, seen, picks, counts, best, found
):
    """The same for targets `rows[first]` to `rows[last - 1]`, nothing having turned."""
    for at in range(first, last):
        row = rows[at]
        best[at], found[at] = best_listed(
            *(residuals[row], slack[row], 0.0, 0.0, atoms, barred[row]),
            *(values[row], seen[row], picks[row], counts[row]),
        )


@kernel
def pursue_list(  # type: ignore[no-untyped-def]
    first,
    last,
    rows,
    atoms,
    atom_norms,
    target_norms,
    limits,
    cautions,
    picks,
    counts,
    values,
    seen,
    levels,
    lengths,
    residuals,
    basis,
    factor,
    projections,
    indices,
    sizes,
    barred,
    open_atoms,
    guessed,
    largest,
):
    """Guesses for targets `rows[first]` to `rows[last - 1]`; a sweep does what is left undone.

    limits: `Precision.correlation`, `Precision.dependence` and the tolerance.
    """
    direction = np.empty(atoms.shape[1], atoms.dtype)
    weights = np.empty(indices.shape[1], atoms.dtype)
    for at in range(first, last):
        row = rows[at]
        residual = residuals[row]
        length = float(target_norms[row])
        while sizes[row] < indices.shape[1] and open_atoms[row] > 0:
            left = math.sqrt(dot(residual, residual))
            if left <= limits[2] * length:
                break
            turned = max(1 - (left / lengths[row]) ** 2, 0.0)
            best, pick = best_listed(
                *(residual, 0.0, cautions[0] * levels[row], turned, atoms, barred[row]),
                *(values[row], seen[row], picks[row], counts[row]),
            )
            if best <= levels[row] * (1 + cautions[1] * math.sqrt(turned)):
                break
            size = sizes[row]
            direction[:] = atoms[pick]
            height = split(basis[row], size, direction, weights)
            norm = atom_norms[pick]
            # An atom that cannot serve is barred where it is known to be the largest.
            if best <= limits[0] * length * norm or height <= limits[1] * norm:
                break
            projection = take(direction, height, residual)
            basis[row, size] = direction
            for p in range(size):
                factor[row, p, size] = weights[p]
            factor[row, size, size] = height
            projections[row, size] = projection
            indices[row, size] = pick
            barred[row, pick] = True
            open_atoms[row] -= 1
            sizes[row] += 1
            guessed[row, size] = True
            largest[row, size] = best


def bytes_per_target(problem: Problem) -> int:
    """Memory that one target in flight takes in lists, and while its guesses are put down."""
    k = problem.sparsity
    return candidates.CAPACITY * 40 + 3 * problem.atoms.element_size() * k * k
