"""`focus`: a convex combination of anchors by sparsemax (Dobler & de Melo 2023).

The original trains fastText vectors on text in the target language, tokenised as the new model
will, and compares by them; that is `auxiliary`. Here the donor's rows do.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mergekit_omp.approximation.base import CodingInputs
from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.codes import RaggedCode
from mergekit_omp.approximation.fit import SIMILARITY, Fit
from mergekit_omp.approximation.similarity import SimilarityCoding
from mergekit_omp.approximation.sparsemax import sparsemax


class Focus(SimilarityCoding, frozen=True):
    """Weights sparsemax(cos(t, a_1), ..., cos(t, a_n)) over all anchors.

    Memory: one block of similarities at a time (`chunks.working_memory`), and eight bytes for each
    weight that is not zero.
    """

    name: ClassVar[str] = "focus"
    reference: ClassVar[str | None] = "https://arxiv.org/abs/2305.14481"
    fit: ClassVar[Fit | None] = SIMILARITY

    @property
    def in_blocks(self) -> bool:
        # Word vectors are compared by the CPU, and reading them takes longer.
        return self.auxiliary is None

    def encode(self, inputs: CodingInputs) -> RaggedCode:
        found = self._among_anchors(inputs)
        atoms = found.atoms.to(found.dtype)
        norms = torch.linalg.vector_norm(atoms, dim=1)
        blocks = []
        alike = found.targets.new_full((len(found.targets),), torch.nan, dtype=found.dtype)
        for block in chunks(
            len(found.targets),
            found.dtype.itemsize * 5 * len(atoms),
            progress=inputs.progress,
            label="Similar anchors",
        ):
            code, alike[block] = _encode(found.targets[block].to(found.dtype), atoms, norms)
            rows = found.rows[code.indices.long()].to(torch.int32)
            blocks.append(dataclasses.replace(code, indices=rows))
        inputs.row_fit[SIMILARITY.key] = alike
        return RaggedCode.join(blocks)


def _encode(
    targets: Float[Tensor, "targets dim"],
    atoms: Float[Tensor, "atoms dim"],
    norms: Float[Tensor, "atoms"],
) -> tuple[RaggedCode, Float[Tensor, "targets"]]:
    """Codes of a few targets, and how like their atoms they are; a zero target gets no weights.

    The codes' indices count atoms.
    """
    lengths = torch.linalg.vector_norm(targets, dim=1, keepdim=True)
    units = targets / lengths.clamp_min(torch.finfo(targets.dtype).tiny)
    similarities = (units @ atoms.T).div_(norms)
    weights = sparsemax(similarities).where(lengths > 0, 0)
    alike = (weights * similarities).sum(1).where(lengths[:, 0] > 0, torch.nan)
    target, atom = weights.nonzero(as_tuple=True)
    ends = torch.bincount(target, minlength=len(targets)).cumsum(0)
    code = RaggedCode(
        offsets=torch.cat([ends.new_zeros(1), ends]),
        indices=atom.to(torch.int32),
        coefficients=weights[target, atom],
        residual_norms=lengths[:, 0],
    )
    left = targets - code.decode(atoms)
    norms_left = torch.linalg.vector_norm(left, dim=1)
    return dataclasses.replace(code, residual_norms=norms_left), alike
