"""Works through targets in batches, which shrink where the device runs out of memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from tqdm import tqdm

from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.sparse_code import SparseCode

LOG = logging.getLogger(__package__)


def in_batches(
    problem: Problem,
    solve: Callable[[Problem], SparseCode],
    batch: int,
    progress: bool = False,
) -> SparseCode:
    """Solves `batch` targets at a time, in order; half as many after an out-of-memory error."""
    count = len(problem.targets)
    codes: list[SparseCode] = []
    start = 0
    with tqdm(total=count, desc="pursuit", unit="token", disable=not progress) as bar:
        while start < count:
            rows = torch.arange(start, min(start + batch, count), device=problem.targets.device)
            try:
                codes.append(solve(problem.subset(rows)))
            except torch.cuda.OutOfMemoryError:
                if batch == 1:
                    raise
                batch = max(1, min(batch, len(rows)) // 2)
                LOG.info("out of device memory: going on with %d targets at a time", batch)
                torch.cuda.empty_cache()
                continue
            start += len(rows)
            bar.update(len(rows))
    return SparseCode(
        indices=torch.cat([code.indices for code in codes]),
        coefficients=torch.cat([code.coefficients for code in codes]),
        residual_norms=torch.cat([code.residual_norms for code in codes]),
    )
