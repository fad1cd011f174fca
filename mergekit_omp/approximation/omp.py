"""`omp`: Orthogonal Matching Pursuit over the anchors (Goddard & Fernandes Neto 2025).

The donor's row of a missing token is written as a combination of at most `k` of its rows of
anchors, chosen greedily; the same combination of the base's rows is the missing row.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from mergekit_omp.approximation.anchors import donor_rows
from mergekit_omp.approximation.base import AnchorCoding, CodingInputs, Cost, Part, Sizes
from mergekit_omp.approximation.codes import working_dtype
from mergekit_omp.approximation.fit import RELATIVE_RESIDUAL, Fit, relative_residuals
from mergekit_omp.approximation.moments import mean_row
from mergekit_omp.approximation.parameters import Bytes, PositiveFloat, PositiveInt
from mergekit_omp.pursuit import Code, SparseCode
from mergekit_omp.pursuit.problem import PRECISION, Problem, clamped, prepare

PAPER_K = 64
LEAST_K = 8
DIMENSIONS_PER_ANCHOR = 64
"""Of the default `k`: 8 anchors suit rows of 128 to 576 numbers, but rows that were trained longer
want more (docs/quality.md). That longer rows want more in proportion was not tried."""
HEAD_GAIN = 1.15
"""Chosen on small models with k = 8 and a head of SmolLM2 with k = 8 (docs/quality.md)."""


class Omp(AnchorCoding, frozen=True):
    """Greedy pursuit over anchors, least squares on the support.

    Anchors are chosen by raw inner products and nothing is centred, as in the paper; by default
    `k` grows with the dimension up to the paper's 64, since with more anchors short rows are
    fitted to their noise. With `center` the support approximates the target's offset from the
    anchors' mean, and the base's rows are offsets from the mean of its anchors in the same way.

    Rows of a head (of its own, or tied) have at most one share of the mean of the base's anchors:
    where coefficients sum to more than 1, that many shares too many are taken away. A model's
    states mostly point along that mean, so that a row with two shares of it would outbid every
    other token. `paper` leaves it out.
    """

    name: ClassVar[str] = "omp"
    reference: ClassVar[str | None] = "https://arxiv.org/abs/2506.06607"
    fit: ClassVar[Fit | None] = RELATIVE_RESIDUAL

    k: PositiveInt | None = Field(
        default=None,
        description="How many anchors a token may be a combination of, at most. [default: a "
        "64th of the donor's dimension, from 8 to 64]",
    )
    paper: bool = Field(
        default=False,
        description="The paper's settings: `k` is 64 whatever the dimension, nothing is centred, "
        "atoms are raw, rows are the plain combinations. Parameters that are written beside it win.",
    )
    center: bool = Field(
        default=False, description="Take the anchors' mean away before the pursuit."
    )
    normalize_atoms: bool = Field(
        default=False,
        description="Choose anchors by cosine instead of by inner product, which favours "
        "long rows.",
    )
    head_gain: PositiveFloat | None = Field(
        default=None,
        description="How far rows of the head and its bias, or of the one matrix of a tied model, are moved from "
        "the anchors' mean, relative to the combination, which is shorter than what it stands for "
        f"where `k` is small. [default: {HEAD_GAIN}; 1 beside `k` or `paper`]",
    )
    search: Literal["auto", "reference", "screened", "gram", "fast"] = Field(
        default="auto",
        description="How the pursuit looks for anchors. All but `fast` find the same ones.",
    )
    memory: Bytes = Field(
        default=None,
        description="What the pursuit may take, such as 4GB. [default: most of what is free]",
    )

    @property
    def in_blocks(self) -> bool:
        return True

    def sparsity(self, dimension: int, anchors: int) -> int:
        """The `k` in force: how many of so many anchors a token may use at most."""
        wanted = self.k
        if wanted is None:
            grown = max(dimension // DIMENSIONS_PER_ANCHOR, LEAST_K)
            wanted = PAPER_K if self.paper else min(grown, PAPER_K)
        return clamped(wanted, anchors, dimension)

    @property
    def gain(self) -> float:
        """The `head_gain` in force."""
        if self.head_gain is not None:
            return self.head_gain
        return HEAD_GAIN if self.k is None and not self.paper else 1.0

    def clamped(self, sizes: Sizes) -> Omp:
        k = self.sparsity(sizes.donor_dim, sizes.anchors)
        return self.model_copy(update={"k": k, "head_gain": self.gain})

    def cost(self, sizes: Sizes) -> Cost:
        from mergekit_omp.pursuit.choice import choose

        plan = choose(self._stand_in(sizes), self.search, self.memory)
        gram = "" if plan.gram is None else f" ({str(plan.gram).removeprefix('torch.')})"
        slower = 2 if sizes.dtype == torch.float64 else 1
        return Cost(plan.cost * slower, plan.bytes, plan.search + gram)

    def _stand_in(self, sizes: Sizes) -> Problem:
        """A pursuit of these sizes without its data, to ask which search would be chosen."""
        dtype = torch.float64 if sizes.dtype == torch.float64 else torch.float32
        zero = torch.zeros((1, 1), dtype=dtype, device=sizes.device)
        return Problem(
            targets=zero.expand(sizes.missing, sizes.donor_dim),
            atoms=zero.expand(sizes.anchors, sizes.donor_dim),
            target_norms=zero[0].expand(sizes.missing),
            atom_norms=zero[0].expand(sizes.anchors),
            usable=torch.ones(1, dtype=torch.bool, device=sizes.device).expand(sizes.anchors),
            sparsity=self.sparsity(sizes.donor_dim, sizes.anchors),
            tolerance=PRECISION[dtype].residual,
        )

    def encode(self, inputs: CodingInputs) -> SparseCode:
        targets, atoms, rows = donor_rows(self.name, inputs)
        dtype = working_dtype(targets, atoms)
        targets, atoms = targets.to(dtype), atoms.to(dtype)
        whole = targets
        if self.center:
            middle = mean_row(atoms)
            blank = ~(targets != 0).any(1)
            targets, atoms = targets - middle, atoms - middle
            targets[blank] = 0
        norms = torch.linalg.vector_norm(atoms, dim=1)
        if self.normalize_atoms:
            atoms = atoms / norms.clamp_min(torch.finfo(dtype).tiny)[:, None]
        code = self._pursue(targets, atoms, inputs)
        inputs.row_fit[RELATIVE_RESIDUAL.key] = relative_residuals(code.residual_norms, whole)
        coefficients = code.coefficients
        if self.normalize_atoms:
            used = norms[code.indices].clamp_min(torch.finfo(dtype).tiny)
            coefficients = coefficients / used
        return dataclasses.replace(
            code,
            indices=rows[code.indices],
            coefficients=coefficients,
        )

    def _pursue(
        self,
        targets: Float[Tensor, "targets dim"],
        atoms: Float[Tensor, "atoms dim"],
        inputs: CodingInputs,
    ) -> SparseCode:
        # Imported here, since it imports Numba, which takes a second.
        from mergekit_omp.pursuit.choice import choose
        from mergekit_omp.pursuit.solve import solve_planned

        anchors, dimension = atoms.shape
        # A `k` that the user wrote is passed as it is: the pursuit warns where it reduces it.
        wanted = self.sparsity(dimension, anchors) if self.k is None else self.k
        problem = prepare(targets, atoms, wanted, None)
        inputs.in_force.update({"k": problem.sparsity, "head_gain": self.gain})
        if not len(targets):
            return SparseCode.empty(targets, problem.sparsity)
        every = inputs.planned_for or len(targets)
        planned = dataclasses.replace(
            problem,
            targets=problem.targets[:1].expand(every, -1),
            target_norms=problem.target_norms[:1].expand(every),
        )
        plan = choose(planned, self.search, self.memory)
        inputs.in_force["search"] = plan.search if plan.verified else "fast"
        return solve_planned(problem, plan, progress=inputs.progress)

    def _combine(
        self,
        code: Code,
        base: Float[Tensor, "base_rows base_dim"],
        anchor_rows: Int[Tensor, "anchors"],
        part: Part,
        tied: bool,
    ) -> Float[Tensor, "missing base_dim"]:
        rows = super()._combine(code, base, anchor_rows, part, tied)
        # A bias is one more column of its head.
        of_head = tied or part != Part.INPUT
        capped, gain = of_head and not self.paper, self.gain if of_head else 1.0
        if not (self.center or capped or gain != 1) or not isinstance(code, SparseCode):
            return rows
        middle = mean_row(base[anchor_rows.to(base.device)])
        coded = (code.support_sizes() > 0).to(rows.device)[:, None]
        shares = code.coefficients.to(rows.device, rows.dtype).sum(1, keepdim=True)
        if self.center:
            # A token that could not be coded gets the mean of the anchors, not of the whole matrix.
            rows = torch.where(coded, rows + (1 - shares) * middle, middle)
        elif capped:
            rows = rows - (shares - 1).clamp_min(0) * middle
        if gain != 1:
            rows = torch.where(coded, middle + gain * (rows - middle), rows)
        return rows
