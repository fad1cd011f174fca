"""`clp`: a mean of all anchors, weighted by cosine similarity (Ostendorff & Rehm 2023).

The original compares tokens by the input embedding of a small helper model with the new
tokenizer. Here the donor is that model, or `auxiliary` holds its rows.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from mergekit_omp.approximation.base import CodingInputs
from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.codes import FactoredCode
from mergekit_omp.approximation.fit import RELATIVE_RESIDUAL, Fit, relative_residuals
from mergekit_omp.approximation.similarity import SimilarityCoding


class Clp(SimilarityCoding, frozen=True):
    """Weights cos(t, a_i) / sum_j cos(t, a_j) over all anchors, negative ones too.

    Up to their sum the weights are linear in t, so that they are kept as the product of two thin
    matrices: exact, and in memory that is linear in the vocabularies. Where similarities of both
    signs nearly cancel, rows become large, as in the original; where their sum is rounding noise,
    the token is not coded.
    """

    name: ClassVar[str] = "clp"
    reference: ClassVar[str | None] = "https://arxiv.org/abs/2301.09626"
    fit: ClassVar[Fit | None] = RELATIVE_RESIDUAL

    def encode(self, inputs: CodingInputs) -> FactoredCode:
        found = self._among_anchors(inputs)
        dtype = found.dtype
        targets, atoms = found.targets.to(dtype), found.atoms.to(dtype)
        dim = atoms.shape[1]
        inverse_norms = 1 / torch.linalg.vector_norm(atoms, dim=1)
        direction = atoms.new_zeros(dim, dtype=torch.float64)
        for block in chunks(len(atoms), 16 * dim):
            direction += inverse_norms[block].double() @ atoms[block].double()
        norms = torch.linalg.vector_norm(targets, dim=1)
        sums = targets.new_empty(len(targets), dtype=torch.float64)
        for block in chunks(len(targets), 16 * dim):
            sums[block] = targets[block].double() @ direction
        noise = torch.finfo(dtype).eps * len(atoms)
        coded = sums.abs() > noise * norms
        code = FactoredCode(
            left=targets,
            right=atoms,
            scales=torch.where(coded, 1 / sums, 0).to(dtype),
            right_scales=inverse_norms,
            indices=found.rows,
            residual_norms=norms,
        )
        core = dataclasses.replace(code, indices=torch.arange(len(atoms))).core(atoms)
        residuals = torch.empty_like(norms)
        for block in chunks(len(targets), 4 * targets.itemsize * dim):
            left = targets[block] - code.decode_some(block, core)
            residuals[block] = torch.linalg.vector_norm(left, dim=1)
        inputs.row_fit[RELATIVE_RESIDUAL.key] = relative_residuals(residuals, targets)
        return dataclasses.replace(code, residual_norms=residuals)
