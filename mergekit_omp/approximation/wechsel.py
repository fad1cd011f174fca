"""`wechsel`: a softmax over the nearest of the base's tokens (Minixhofer et al. 2022).

The original compares tokens by fastText vectors of both languages, aligned by a dictionary, and
gives every token of the new vocabulary a new row. Here the donor's rows are the space, and a
token of the base that the donor lacks is the mean of the donor's rows of its pieces; or
`auxiliary` holds vectors for both. Shared tokens keep their rows unless `copy_shared` is false.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from mergekit_omp.approximation.anchors import donor_is_missing, require_anchors, usable_rows
from mergekit_omp.approximation.base import CodingInputs, Needs, texts_of
from mergekit_omp.approximation.base_tokens import donor_vectors, emitted_rows
from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.fit import OWN_TOKENS, SIMILARITY, Fit, Parts
from mergekit_omp.approximation.moments import finite_rows
from mergekit_omp.approximation.parameters import PositiveFloat, PositiveInt
from mergekit_omp.approximation.similarity import Similarities, SimilarityCoding
from mergekit_omp.pursuit import SparseCode


class Wechsel(SimilarityCoding, frozen=True):
    """Weights softmax(cos(t, u_i) / temperature) over the `neighbors` nearest u_i.

    Candidates are the base's ordinary tokens that its own tokenizer emits for their bytes; the
    others were never trained.
    """

    name: ClassVar[str] = "wechsel"
    reference: ClassVar[str | None] = "https://arxiv.org/abs/2112.06598"
    fit: ClassVar[Fit | None] = SIMILARITY
    parts: ClassVar[Parts | None] = OWN_TOKENS

    neighbors: PositiveInt = Field(
        default=10, description="How many of the base's tokens a token is made of."
    )
    temperature: PositiveFloat = Field(
        default=0.1, description="Of the softmax over similarities; smaller is sharper."
    )
    copy_shared: bool = Field(
        default=True,
        description="Copy the rows of shared tokens. If false every ordinary token is "
        "approximated, as published.",
    )

    @property
    def in_blocks(self) -> bool:
        # Word vectors are compared by the CPU, and reading them takes longer.
        return self.auxiliary is None

    @property
    def needs(self) -> frozenset[Needs]:
        return super().needs | {Needs.TEXT}

    @property
    def copies_shared(self) -> bool:
        return self.copy_shared

    def encode(self, inputs: CodingInputs) -> SparseCode:
        found = self._among_base_tokens(inputs)
        k = inputs.in_force["neighbors"] = min(self.neighbors, len(found.atoms))
        dtype, device = found.dtype, found.targets.device
        atoms = found.atoms.to(dtype)
        norms = torch.linalg.vector_norm(atoms, dim=1)
        indices = torch.zeros((len(found.targets), k), dtype=torch.int64, device=device)
        coefficients = found.targets.new_zeros((len(found.targets), k), dtype=dtype)
        residuals = found.targets.new_zeros(len(found.targets), dtype=dtype)
        alike = found.targets.new_full((len(found.targets),), torch.nan, dtype=dtype)
        for block in chunks(
            len(found.targets),
            dtype.itemsize * (3 * len(atoms) + 2 * k * atoms.shape[1]),
            progress=inputs.progress,
            label="Similar tokens",
        ):
            target = found.targets[block].to(dtype)
            lengths = torch.linalg.vector_norm(target, dim=1, keepdim=True)
            units = target / lengths.clamp_min(torch.finfo(dtype).tiny)
            similarities = (units @ atoms.T).div_(norms)
            closest, nearest = similarities.topk(k, dim=1)
            # Differences to the closest, so that a tiny temperature makes no infinities of both.
            apart = (closest - closest[:, :1]) / max(self.temperature, torch.finfo(dtype).tiny)
            weights = torch.softmax(apart, dim=1).where(lengths > 0, 0)
            indices[block] = found.rows[nearest]
            coefficients[block] = weights
            alike[block] = (weights * closest).sum(1).where(lengths[:, 0] > 0, torch.nan)
            left = target - (weights[:, None] @ atoms[nearest])[:, 0]
            residuals[block] = torch.linalg.vector_norm(left, dim=1)
        inputs.row_fit[SIMILARITY.key] = alike
        return SparseCode(indices=indices, coefficients=coefficients, residual_norms=residuals)

    def _among_base_tokens(self, inputs: CodingInputs) -> Similarities:
        texts = texts_of(self.name, inputs)
        rows = torch.tensor(emitted_rows(texts, inputs.anchor_rows), dtype=torch.int64)
        require_anchors(self.name, len(rows))
        if self.auxiliary is not None:
            return self._by_vectors(inputs, rows)
        if inputs.targets is None or inputs.anchors is None or inputs.donor is None:
            raise donor_is_missing(self.name)
        finite = finite_rows(inputs.targets)[:, None]
        vectors = donor_vectors(inputs, texts, rows)
        usable = usable_rows(vectors)
        require_anchors(self.name, int(usable.sum()))
        return Similarities(
            targets=inputs.targets.where(finite, 0),
            atoms=vectors[usable],
            rows=rows.to(vectors.device)[usable],
        )
