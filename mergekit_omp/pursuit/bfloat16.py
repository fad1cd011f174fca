"""Screened search in bfloat16: its products name candidates, the working dtype decides among them.

A candidate is every atom whose product, given the largest possible error of bfloat16
(docs/pursuit-bounds.md), may be the largest; so the atom found is that of an exhaustive search.
Worth it where the machine multiplies bfloat16 faster than float32: GPUs, and CPUs with AVX512-BF16
or AMX.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mergekit_omp.kernels.compiled import has_instructions
from mergekit_omp.pursuit.decision import decide_pairs
from mergekit_omp.pursuit.lockstep import Search
from mergekit_omp.pursuit.problem import Problem

ROUNDOFF = 2.0**-8
"""Of bfloat16: what rounding a number to it changes, at most, relative to the number."""
FACTORS = 2.1
"""Roundoffs of a cosine by its two factors; a tenth of one covers the float32 sums."""

_SETTING = Lock()
"""Held while a setting of the process is changed, or two threads might each restore the other's."""


class Bfloat16(Search):
    """Exhaustive search, with most of the arithmetic in bfloat16."""

    def __init__(self, problem: Problem) -> None:
        self.atoms = problem.atoms
        self.norms = problem.atom_norms
        # Unit rows: no product overflows or vanishes in bfloat16, whatever the atoms' scale.
        self.coarse = (problem.atoms / problem.divisors[:, None]).to(torch.bfloat16)

    def find(
        self, residuals: Float[Tensor, "batch dim"], barred: Bool[Tensor, "batch atoms"]
    ) -> tuple[Float[Tensor, "batch"], Int64[Tensor, "batch"]]:
        lengths = torch.linalg.vector_norm(residuals, dim=1, keepdim=True)
        directions = (residuals / lengths).to(torch.bfloat16)
        cosines = (directions @ self.coarse.T).abs_()
        # The result is rounded too.
        largest = cosines.amax(dim=1, keepdim=True).to(self.norms.dtype)
        error = (FACTORS + 1.01 * largest) * ROUNDOFF
        bound = cosines.to(self.norms.dtype).sub_(error).mul_(self.norms)
        bound = bound.masked_fill_(barred, -torch.inf)
        floor = bound.amax(dim=1, keepdim=True)
        bound.addcmul_(error, self.norms, value=2)
        rows, picks = (bound >= floor).logical_and_(~barred).nonzero(as_tuple=True)
        return decide_pairs(rows, picks, self.atoms, residuals)


def fits(rows: Float[Tensor, "_ dim"]) -> bool:
    """Whether all numbers are of bfloat16, as those of most checkpoints are."""
    parts = rows.split(512)  # a little memory at a time
    return all(torch.equal(part, part.to(torch.bfloat16).to(part.dtype)) for part in parts)


@contextmanager
def short_factors(fit: bool) -> Iterator[None]:
    """Has torch multiply float32 on a CPU by AMX, where all factors `fit` bfloat16: nothing is lost.

    The setting is the process's: products of float32 in other threads are rounded meanwhile, so that
    no more than one product should be made inside. Who else asks for it waits.
    """
    settings: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if settings is None or not (fit and has_instructions("amx_bf16")):
        yield
        return
    with _SETTING:
        before, settings.fp32_precision = settings.fp32_precision, "bf16"
        try:
            yield
        finally:
            settings.fp32_precision = before


def search_bytes(problem: Problem) -> int:
    """Memory that one residual takes in `Bfloat16`."""
    return len(problem.atoms) * (4 + 2 * problem.atoms.element_size())


def fixed_bytes(problem: Problem) -> int:
    """Memory held whatever the batch: the coarse atoms."""
    return problem.atoms.numel() * (2 + problem.atoms.element_size())
