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

from mergekit_omp import pursuit
from mergekit_omp.approximation.anchors import donor_rows
from mergekit_omp.approximation.base import AnchorCoding, CodingInputs, Part
from mergekit_omp.approximation.codes import working_dtype
from mergekit_omp.approximation.moments import mean_row
from mergekit_omp.approximation.parameters import Bytes, PositiveInt
from mergekit_omp.pursuit import Code, SparseCode

PAPER_K = 64
LEAST_K = 8


class Omp(AnchorCoding, frozen=True):
    """Greedy pursuit over anchors, least squares on the support.

    Anchors are chosen by raw inner products and nothing is centred, as in the paper; by default
    `k` grows with the dimension up to the paper's 64, since more anchors fit the noise of short
    rows. With `center` the support approximates the target's offset from the anchors' mean, and
    the base's rows are offsets from the mean of its anchors in the same way.
    """

    name: ClassVar[str] = "omp"
    reference: ClassVar[str | None] = "https://arxiv.org/abs/2506.06607"

    k: PositiveInt | None = Field(
        default=None,
        description="How many anchors a token may be a combination of, at most. [default: a "
        "16th of the donor's dimension, from 8 to 64]",
    )
    paper: bool = Field(
        default=False,
        description="The paper's settings: `k` is 64 whatever the dimension, nothing is centred, "
        "atoms are raw. Parameters that are written beside it win.",
    )
    center: bool = Field(
        default=False, description="Take the anchors' mean away before the pursuit."
    )
    normalize_atoms: bool = Field(
        default=False,
        description="Choose anchors by cosine instead of by inner product, which favours "
        "long rows.",
    )
    search: Literal["auto", "reference", "screened", "gram", "fast"] = Field(
        default="auto",
        description="How the pursuit looks for anchors. All but `fast` find the same ones.",
    )
    memory: Bytes = Field(
        default=None,
        description="What the pursuit may take, such as 4GB. [default: most of what is free]",
    )

    def sparsity(self, dimension: int, anchors: int) -> int:
        """At most how many anchors a token gets.

        A `k` that was written comes as it is: the pursuit reduces it where it has to, and says
        so.
        """
        if self.k is not None:
            return self.k
        wanted = PAPER_K if self.paper else min(max(dimension // 16, LEAST_K), PAPER_K)
        return min(wanted, dimension, anchors)

    def encode(self, space: CodingInputs) -> SparseCode:
        targets, atoms, rows = donor_rows(self.name, space)
        dtype = working_dtype(targets, atoms)
        targets, atoms = targets.to(dtype), atoms.to(dtype)
        if self.center:
            middle = mean_row(atoms)
            blank = ~(targets != 0).any(1)
            targets, atoms = targets - middle, atoms - middle
            targets[blank] = 0
        norms = torch.linalg.vector_norm(atoms, dim=1)
        if self.normalize_atoms:
            atoms = atoms / norms.clamp_min(torch.finfo(dtype).tiny)[:, None]
        code = pursuit.orthogonal_matching_pursuit(
            targets,
            atoms,
            self.sparsity(atoms.shape[1], len(atoms)),
            search=self.search,
            memory=self.memory,
            progress=space.progress,
        )
        coefficients = code.coefficients
        if self.normalize_atoms:
            used = norms[code.indices].clamp_min(torch.finfo(dtype).tiny)
            coefficients = coefficients / used
        return dataclasses.replace(
            code,
            indices=rows[code.indices],
            coefficients=coefficients,
        )

    def _combine(
        self,
        code: Code,
        base: Float[Tensor, "base_rows base_dim"],
        anchor_rows: Int[Tensor, "anchors"],
        part: Part,
    ) -> Float[Tensor, "missing base_dim"]:
        if not self.center or not isinstance(code, SparseCode):
            return super()._combine(code, base, anchor_rows, part)
        # A token without a code is the mean of the anchors here, not of the whole matrix.
        rows = code.decode(base)
        anchors = base[anchor_rows.to(base.device)]
        rest = 1 - code.coefficients.to(rows.device, rows.dtype).sum(1)
        return rows + rest[:, None] * mean_row(anchors)
