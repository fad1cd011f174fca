"""Whether the guesses of a pursuit by shortlists were right: no atom was overlooked.

A guess is right if no atom had a larger correlation with the residual of its iteration. All of
these residuals are known once the pursuit is done: combinations of the target and its support. So
are their correlations with an atom, once the atom's products with targets and supports are. These
are computed for a few atoms at a time, in 8-bit integers as in `eight_bit`, and serve all targets:
each pair of atoms is multiplied once, rather than once for every target and iteration, and no
Gram matrix is ever held. Atoms that may have been overlooked, by the same bounds, are decided by
the vectors themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int16, Int64
from torch import Tensor
from tqdm import tqdm

from mergekit_omp.pursuit import integer_products
from mergekit_omp.pursuit.basis import split, take
from mergekit_omp.pursuit.blocks import TIE
from mergekit_omp.pursuit.combinations import combine
from mergekit_omp.pursuit.compiled import kernel
from mergekit_omp.pursuit.eight_bit import CHUNK, WIDTH, EightBit
from mergekit_omp.pursuit.integer_products import ATOMS, RESIDUALS, multiply
from mergekit_omp.pursuit.listed import Trail
from mergekit_omp.pursuit.prefetch import LINE, prefetch
from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.rounding import STEPS
from mergekit_omp.pursuit.sparse_code import SparseCode
from mergekit_omp.pursuit.threads import in_threads
from mergekit_omp.pursuit.tiles import dot

INTEGERS = 32767
"""Weights are integers from minus this to this."""
TILES = 4
"""Tiles of atoms whose products are held at a time."""
CAPACITY = 896
"""Atoms of a target, at any of its iterations, that can be decided; where more may have been
overlooked, its support is not taken for verified."""


@dataclass(frozen=True, eq=False)
class Guesses:
    """The guessed iterations of a batch: rows in groups of eight, each group of one target."""

    targets: Int64[Tensor, "targets"]
    supports: Int64[Tensor, "targets k"]
    steps: Int64[Tensor, "rows"]
    """How many atoms each row's residual stands on; -1 where the row only fills up its group."""
    owners: Int64[Tensor, "rows"]
    """The target of each row, as a place in `targets`."""
    weights: Int16[Tensor, "rows sources"]
    """The residual, in units of the target's norm: one for the target, then the coefficients of its
    support times the norms of its atoms, negative; all in units of the row."""
    units: Float[Tensor, "rows"]
    lengths: Float[Tensor, "rows"]
    """The norm of the residual, in units of the target's."""
    largest: Float[Tensor, "rows"]
    """The correlation of the pick."""

    @classmethod
    def of(
        cls,
        problem: Problem,
        targets: Int64[Tensor, "targets"],
        code: SparseCode,
        trail: Trail,
    ) -> Guesses:
        """The guesses of some of a problem's targets."""
        count, k = trail.guessed.shape
        identity = torch.eye(k, dtype=trail.factor.dtype).expand(count, k, k)
        inverse = torch.linalg.solve_triangular(trail.factor, identity, upper=True)
        # Column t: the coefficients after t + 1 iterations.
        history = inverse.mul_(trail.projections[:, None]).cumsum(dim=2)
        history *= problem.atom_norms[code.indices][:, :, None]
        tiny = torch.finfo(history.dtype).tiny
        norms = problem.target_norms[targets].clamp(min=tiny)
        history /= norms[:, None, None]
        explained = ((trail.projections / norms[:, None]) ** 2).cumsum(dim=1)
        each = -(-trail.guessed.sum(dim=1) // RESIDUALS) * RESIDUALS
        begins = each.cumsum(dim=0) - each
        owners = torch.arange(count).repeat_interleave(each)
        rows, picked = trail.guessed.nonzero(as_tuple=True)
        at = begins[rows] + trail.guessed.cumsum(dim=1)[rows, picked] - 1
        steps = torch.full((len(owners),), -1)
        steps[at] = picked
        weights = torch.zeros(len(owners), k + 1)
        weights[at, 0] = 1
        # The first pick is never a guess.
        weights[at, 1:] = -history[rows, :, picked - 1].float()
        units = weights.abs().amax(dim=1) / INTEGERS
        weights /= units.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
        largest = trail.largest.new_zeros(len(owners))
        largest[at] = trail.largest[rows, picked]
        lengths = torch.zeros(len(owners))
        lengths[at] = (1 - explained[rows, picked - 1]).clamp_(min=0).sqrt_().float()
        whole = weights.round_().to(torch.int16)
        return cls(targets, code.indices, steps, owners, whole, units, lengths, largest)


def wrong_guesses(
    problem: Problem, search: EightBit, batches: list[Guesses], progress: bool = False
) -> Int64[Tensor, "wrong"]:
    """The targets that an atom was overlooked for, or may have been."""
    batches = [batch for batch in batches if len(batch.steps)]
    if not batches:
        return torch.zeros(0, dtype=torch.int64)
    sources = _Sources(problem, search, batches)
    checks = [_Check(problem, search, batch, sources) for batch in batches]
    table = np.empty((len(sources.integers), TILES * ATOMS), np.int16)
    packed, correction = search.coarse.numpy(), search.correction.numpy()
    integers = sources.integers.numpy()
    starts = range(0, len(packed), TILES)
    for first in tqdm(starts, desc="check", unit="tile", disable=not progress):
        tiles = packed[first : first + TILES], correction[first : first + TILES]
        in_threads(
            partial(fill, integers=integers, tiles=tiles, shift=sources.shift, table=table),
            len(integers),
            RESIDUALS,
        )
        in_threads(partial(_look, checks, table, first, len(tiles[0])), len(checks))
    wrong = [check.settled() for check in checks]
    return torch.cat([batch.targets[rows] for batch, rows in zip(batches, wrong, strict=True)])


def _look(
    checks: list[_Check], table: np.ndarray, first: int, tiles: int, low: int, high: int
) -> None:
    for check in checks[low:high]:
        check.look(table, first, tiles)


class _Sources:
    """What residuals are combinations of: targets, and atoms in use, in 8-bit integers."""

    def __init__(self, problem: Problem, search: EightBit, batches: list[Guesses]) -> None:
        self.used = torch.unique(torch.cat([batch.supports.flatten() for batch in batches]))
        count, dim = len(problem.targets), problem.atoms.shape[1]
        self.integers = integer_products.rows_for(count + len(self.used), dim)
        self.scale = torch.empty(count + len(self.used), dtype=torch.float64)
        for begin in range(0, len(self.scale), CHUNK):
            end = min(begin + CHUNK, len(self.scale))
            some = torch.arange(begin, end)
            atoms = self.used[some[some >= count] - count]
            rows = torch.cat([problem.targets[begin : min(end, count)], problem.atoms[atoms]])
            integers, scale = search.rounded(rows)
            self.integers[begin:end] = integers[: len(rows)]
            self.scale[begin:end] = scale
        largest = dim * STEPS**2
        self.shift = max(0, (largest >> 15).bit_length())

    def of(self, batch: Guesses) -> Int64[Tensor, "targets sources"]:
        """The rows of the target and of its support."""
        places = torch.searchsorted(self.used, batch.supports) + len(self.scale) - len(self.used)
        return torch.cat([batch.targets[:, None], places], dim=1)


class _Check:
    """The guesses of one batch, with the bounds of their errors."""

    def __init__(
        self, problem: Problem, search: EightBit, batch: Guesses, sources: _Sources
    ) -> None:
        self.problem = problem
        self.search = search
        self.batch = batch
        rows = sources.of(batch)
        # In units of the target's norm and of its atoms' nothing overflows.
        tiny = torch.finfo(torch.float64).tiny
        lengths = problem.target_norms[batch.targets].double()[:, None]
        norms = torch.cat([lengths, problem.atom_norms[batch.supports].double()], dim=1)
        scale = sources.scale[rows] / norms.clamp_(min=tiny)
        levels = batch.largest.double() / lengths[batch.owners, 0] / search.top.double()
        levels *= 1 + TIE
        # Nothing reaches what only fills up a group.
        levels[batch.steps < 0] = 1e6
        slopes, spreads = torch.empty_like(levels), torch.empty_like(levels)
        half = 2.0 ** (sources.shift - 1) if sources.shift else 0.0
        for some in torch.arange(len(levels)).split(CHUNK):
            units = batch.units[some].double()
            parts = batch.weights[some].double() * units[:, None] * scale[batch.owners[some]]
            square = (parts**2).sum(dim=1)
            # The residual of what is rounded is longer, by the roundings' norms.
            length = batch.lengths[some].double() ** 2
            length = (length + problem.atoms.shape[1] / 2 * square).sqrt()
            slopes[some] = 1.01 * (WIDTH * length + half * parts.abs().sum(dim=1))
            # The weights are rounded too, by half a unit each.
            rounded = (batch.steps[some] + 1) * units / 2
            spreads[some] = square.sqrt() + rounded / WIDTH
        ends = torch.bincount(batch.owners, minlength=len(rows)).cumsum(dim=0)
        self.ends = ends.numpy()
        bounds = (values.float().numpy() for values in (levels, slopes, spreads))
        self.arguments: list[Any] = [
            rows.numpy(),
            (scale * 2.0**sources.shift).float().numpy(),
            self.ends,
            batch.steps.numpy(),
            batch.weights.numpy(),
            batch.units.numpy(),
            *bounds,
        ]
        self.found = np.zeros((len(rows), CAPACITY), np.int32)
        self.where = np.zeros((len(rows), CAPACITY), np.int16)
        self.counts = np.zeros(len(rows), np.int64)

    def look(self, table: np.ndarray, first: int, tiles: int) -> None:
        """Notes which atoms of some tiles may have been overlooked."""
        noted = self.found, self.where, self.counts
        place = (table, first, tiles, self.search.described)
        overlooked(*(*self.arguments, *place, *noted))

    def settled(self) -> Int64[Tensor, "wrong"]:
        """The targets, as places in the batch, that an atom was overlooked for."""
        problem, batch = self.problem, self.batch
        wrong = torch.zeros(len(batch.targets), dtype=torch.bool)
        tensors = (batch.targets, batch.supports, batch.steps, batch.largest)
        arguments = (
            *(tensor.numpy() for tensor in (*tensors, problem.targets, problem.atoms)),
            self.ends,
            *(self.found, self.where, self.counts, wrong.numpy()),
        )
        in_threads(lambda first, last: settle(first, last, *arguments), len(wrong))
        return wrong.nonzero().squeeze(1)


def bytes_of(problem: Problem) -> int:
    """Memory of all guesses, their sources, and the products held at a time."""
    targets, (atoms, dim) = len(problem.targets), problem.atoms.shape
    k = problem.sparsity
    sources = targets + min(atoms, targets * k)
    each = k * (2 * (k + 1) + 36) + 20 * k + CAPACITY * 6
    return targets * each + sources * (dim + 8 + 2 * TILES * ATOMS) + CHUNK * dim * 12


@kernel
def fill(first, last, integers, tiles, shift, table):  # type: ignore[no-untyped-def]
    """table[i] = products of source i with the atoms of some tiles, in steps of `2**shift`."""
    packed, correction = tiles
    products = np.empty((RESIDUALS, ATOMS), np.int32)
    limits = np.zeros(RESIDUALS, np.int32)
    half = np.int32(1 << shift >> 1)
    for begin in range(first, last, RESIDUALS):
        group = integers[begin : begin + RESIDUALS]
        for tile in range(packed.shape[0]):
            multiply(group, packed[tile], correction[tile], limits, products)
            for row in range(RESIDUALS):
                out = table[begin + row, tile * ATOMS : (tile + 1) * ATOMS]
                for x in range(ATOMS):
                    out[x] = np.int16((products[row, x] + half) >> shift)


@kernel
def scale_weights(weights, unit, units, out):  # type: ignore[no-untyped-def]
    for at in range(weights.shape[0]):
        out[at] = np.float32(weights[at]) * unit * units[at]


@kernel
def overlooked(  # type: ignore[no-untyped-def]
    sources,
    units,
    ends,
    steps,
    weights,
    weight_units,
    levels,
    slopes,
    spreads,
    table,
    first,
    tiles,
    atoms,
    found,
    where,
    counts,
):
    """Notes the atoms whose correlations may be above the level of a guess.

    Row r of the weights, times the units of its target, times the table's rows of its sources, is
    the product of the residual and an atom, in integers; times the atom's scale it is their
    correlation, off by at most `slopes[r]` times the scale plus `spreads[r]` times the margin.
    """
    order, scale, margin, steepest, widest, _ = atoms
    width = sources.shape[1]
    rows = np.empty((width, TILES * ATOMS), np.float32)
    scaled = np.empty((RESIDUALS, width), np.float32)
    limits = np.empty(RESIDUALS, np.float32)
    products = np.empty((RESIDUALS, ATOMS), np.float32)
    begin = 0
    for target in range(ends.shape[0]):
        end = ends[target]
        if begin == end:
            continue
        deep = 0
        for row in range(begin, end):
            deep = max(deep, steps[row] + 1)
        for at in range(deep):
            line, out = table[sources[target, at]], rows[at]
            for x in range(TILES * ATOMS):
                out[x] = line[x]
        asked = 0
        for group in range(begin, end, RESIDUALS):
            # The next target's rows, while this one's are worked on.
            share = (
                (asked + width * RESIDUALS // (end - begin) + 1) if target + 1 < ends.size else 0
            )
            for at in range(asked, min(share, width)):
                line = table[sources[target + 1, at]]
                for byte in range(0, TILES * ATOMS * 2, LINE):
                    prefetch(line, byte)
            asked = share
            level = levels[group : group + RESIDUALS]
            spread = spreads[group : group + RESIDUALS]
            slope = slopes[group : group + RESIDUALS]
            depth = 1
            for row in range(RESIDUALS):
                depth = max(depth, steps[group + row] + 1)
            for row in range(RESIDUALS):
                scale_weights(
                    weights[group + row, :depth],
                    weight_units[group + row],
                    units[target],
                    scaled[row],
                )
            for tile in range(tiles):
                # A little less, for what float32 rounds away.
                flat = np.float32(1 - 1e-5) / max(steepest[first + tile], np.float32(1e-30))
                wide = widest[first + tile]
                for row in range(RESIDUALS):
                    limits[row] = level[row] * flat - spread[row] * (wide * flat) - slope[row]
                part = rows[:depth, tile * ATOMS : (tile + 1) * ATOMS]
                mask = combine(scaled[:, :depth], part, limits, products)
                if mask == 0:
                    continue
                low = (first + tile) * ATOMS
                for row in range(RESIDUALS):
                    if not mask >> row & 1:
                        continue
                    at = group + row
                    for x in range(min(ATOMS, order.shape[0] - low)):
                        upper = (abs(products[row, x]) + slopes[at]) * scale[low + x]
                        if upper + spreads[at] * margin[low + x] > levels[at]:
                            if counts[target] < found.shape[1]:
                                found[target, counts[target]] = order[low + x]
                                where[target, counts[target]] = at - begin
                            counts[target] += 1
        begin = end


@kernel
def settle(  # type: ignore[no-untyped-def]
    first,
    last,
    targets,
    supports,
    steps,
    largest,
    vectors,
    atoms,
    ends,
    found,
    where,
    counts,
    wrong,
):
    """Marks the targets that an atom was overlooked for, by the vectors themselves."""
    basis = np.empty((supports.shape[1], atoms.shape[1]), atoms.dtype)
    weights = np.empty(supports.shape[1], atoms.dtype)
    residual = np.empty(atoms.shape[1], atoms.dtype)
    for target in range(first, last):
        if counts[target] == 0 or counts[target] > found.shape[1]:
            wrong[target] = counts[target] > 0
            continue
        size = 0
        residual[:] = vectors[targets[target]]
        begin = ends[target - 1] if target else 0
        for row in range(begin, ends[target]):
            while size < steps[row]:
                direction = basis[size]
                direction[:] = atoms[supports[target, size]]
                height = split(basis, size, direction, weights)
                take(direction, height, residual)
                size += 1
            for note in range(counts[target]):
                if where[target, note] == row - begin:
                    value = abs(dot(residual, atoms[found[target, note]]))
                    if value > largest[row] * (1 + TIE):
                        wrong[target] = True
            if wrong[target]:
                break
