"""Which search to run: the cheapest, by a count of multiply-adds, of those that fit the memory."""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass

import psutil
import torch

from mergekit_omp.pursuit import (
    compiled,
    eight_bit,
    gram,
    lockstep,
    screened,
)
from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.processor import has_instructions

LOG = logging.getLogger(__package__)

SEARCHES = ("auto", "reference", "gram", "screened", "fast")
FREE_SHARE, INSTALLED_SHARE = 0.75, 0.6
"""What a search may take of the memory that is free, and of all there is, unless told."""
THRIFT = 1.25
"""A plan that takes less memory is preferred to one that is less than so many times as fast."""
LARGEST_BATCH = 512
"""Targets in flight: more would not be faster."""
EXHAUSTIVE_COST, SCREENED_COST, BASIS_COST = 1.3, 0.6, 40
EIGHT_BIT_COST, EIGHT_BIT_COST_BY_TORCH = 0.19, 0.27
"""Time of a multiply-add, against one of a large float32 product; a basis is read from memory."""
BLOCK_COST = {torch.float64: 11, torch.float32: 5.5, torch.int16: 5.5, torch.int8: 13}
"""The same where rows of a Gram matrix are combined."""
SPECULATION_COST = 900
"""Atoms whose products a speculation costs."""
WORKSPACE = 16 << 20
"""What the kernels' threads and the products' packing take beside the tables counted here."""


@dataclass(frozen=True)
class Plan:
    """A search that fits."""

    search: str
    """One of "reference", "screened" and "gram"."""
    batch: int
    """Targets at a time."""
    bytes: int
    """Memory that it takes, beside inputs that already are in the working dtype."""
    cost: float
    """Multiply-adds, weighted by how fast they go."""
    gram: torch.dtype | None = None
    verified: bool = True


def check_search(search: str) -> None:
    if not isinstance(search, str):
        raise TypeError(f"search is {search!r}: write one of {', '.join(SEARCHES)}")
    if search not in SEARCHES:
        near = difflib.get_close_matches(search, SEARCHES, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"search is {search!r}: write one of {', '.join(SEARCHES)} (perhaps {near!r})"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that may be taken on a device, by default."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * FREE_SHARE)
    memory = psutil.virtual_memory()
    # Of all there is, where that is free: one machine then takes one search, run after run.
    return int(min(memory.total * INSTALLED_SHARE, memory.available * FREE_SHARE))


def choose(problem: Problem, search: str, memory: int | None) -> Plan:
    """The plan for `search`; raises ValueError where no plan fits `memory` bytes."""
    check_search(search)
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int)):
        raise TypeError(f"memory is {memory!r}: write a number of bytes")
    budget = free_memory(problem.atoms.device) if memory is None else memory
    every = _plans(problem, budget)
    plans = [plan for plan in every if _answers(plan, search)]
    # Where no inexact search is possible, the exact ones serve a wish for speed.
    if search == "fast" and not any(plan.bytes <= budget for plan in plans):
        plans = [plan for plan in every if plan.verified]
    fitting = [plan for plan in plans if plan.batch >= 1 and plan.bytes <= budget]
    if not fitting:
        raise ValueError(_nothing_fits(search, plans, budget))
    least = min(plan.cost for plan in fitting)
    plan = min(
        (plan for plan in fitting if plan.cost <= THRIFT * least), key=lambda plan: plan.bytes
    )
    LOG.info(
        "pursuit of %d targets over %d atoms, k = %d: search %s%s%s, %.1f GB of memory,"
        " %.2g multiply-adds, %d targets at a time",
        len(problem.targets),
        len(problem.atoms),
        problem.sparsity,
        plan.search,
        f" ({str(plan.gram).removeprefix('torch.')})" if plan.gram else "",
        "" if plan.verified else ", unverified",
        plan.bytes / 1e9,
        plan.cost,
        plan.batch,
    )
    return plan


def lockstep_batch(problem: Problem, search: str, budget: int) -> int:
    """Targets at a time of "reference" or "screened", within a budget or else one."""
    return _lockstep(problem, search, budget).batch


def _answers(plan: Plan, search: str) -> bool:
    if search == "auto":
        return plan.verified
    if search == "fast":
        return not plan.verified
    return plan.verified and plan.search == search


def _nothing_fits(search: str, plans: list[Plan], budget: int) -> str:
    if not plans:
        return f"search {search!r} needs Numba and a CPU here: write 'auto'"
    least = min(plan.bytes for plan in plans)
    return (
        f"search {search!r} needs at least {least / 1e9:.2f} GB of memory and may take"
        f" {budget / 1e9:.2f} GB: raise `memory`" + ("" if search == "auto" else " or write 'auto'")
    )


def _plans(problem: Problem, budget: int) -> list[Plan]:
    plans = [_lockstep(problem, name, budget) for name in ("reference", "screened")]
    if compiled.AVAILABLE and problem.atoms.device.type == "cpu":
        dtypes = [problem.atoms.dtype]
        if problem.atoms.dtype == torch.float32:
            dtypes += [torch.int16, torch.int8]
        for dtype in dtypes:
            plans += [_gram(problem, dtype, budget, verified) for verified in (True, False)]
    return plans


def _sized(each: int, fixed: int, count: int, budget: int) -> tuple[int, int]:
    """A batch for a budget, and its memory; what one target takes if not even that fits."""
    batch = max(1, min((budget - fixed) // each, count, LARGEST_BATCH))
    return batch, fixed + batch * each


def _lockstep(problem: Problem, search: str, budget: int) -> Plan:
    targets, (atoms, dim) = len(problem.targets), problem.atoms.shape
    each, fixed, product = lockstep.bytes_per_target(problem), WORKSPACE, EXHAUSTIVE_COST
    if search == "reference":
        each += lockstep.search_bytes(problem)
    elif eight_bit.available(problem):
        each += eight_bit.search_bytes(problem)
        fixed += eight_bit.fixed_bytes(problem)
        ours = eight_bit.in_registers(problem)
        product = EIGHT_BIT_COST if ours else EIGHT_BIT_COST_BY_TORCH
    else:
        each += screened.search_bytes(problem)
        fixed += screened.fixed_bytes(problem)
        product = _bfloat16_cost(problem.atoms.device)
    batch, size = _sized(each, fixed, targets, budget)
    cost = float(targets) * problem.sparsity * dim
    cost *= atoms * product + problem.sparsity * BASIS_COST
    return Plan(search, batch, size, cost)


def _gram(problem: Problem, dtype: torch.dtype, budget: int, verified: bool) -> Plan:
    targets, (atoms, dim) = len(problem.targets), problem.atoms.shape
    k = problem.sparsity
    scalar = problem.atoms.element_size()
    fixed = WORKSPACE + gram.bytes_of(problem, dtype)
    each = atoms * scalar + k * (scalar + 8)
    batch, size = _sized(each, fixed, targets, budget)
    passes = k * k / 2 if verified else k * k / 32
    once = atoms * atoms * dim / 2
    # The coarser the matrix, the more products it takes to decide which atom is the largest.
    speculation = k * SPECULATION_COST * (dim if dtype == torch.int8 else k)
    cost = once + targets * (atoms * (dim + BLOCK_COST[dtype] * passes) + speculation)
    return Plan("gram", batch, size, cost, gram=dtype, verified=verified)


def _bfloat16_cost(device: torch.device) -> float:
    if device.type == "cuda":
        return SCREENED_COST
    # Without instructions for it, a CPU multiplies bfloat16 slower than float32.
    native = has_instructions("avx512_bf16", "amx_bf16")
    return SCREENED_COST if native else 4 * EXHAUSTIVE_COST
