"""Which search to run: the cheapest, by a count of multiply-adds, of those that fit the memory."""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass

import psutil
import torch

from mergekit_omp.kernels.compiled import has_instructions
from mergekit_omp.pursuit import bfloat16, decision, eight_bit, gram, lockstep
from mergekit_omp.pursuit.cuts import power_of_two
from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.ways import Way, available, obstacle

LOG = logging.getLogger(__package__)

SEARCHES = ("auto", "reference", "gram", "screened", "fast")
FREE_SHARE, INSTALLED_SHARE = 0.75, 0.6
"""What a search may take of the memory that is free, and of all there is, unless told."""
THRIFT = 1.25
"""A plan that takes less memory is preferred to one that is less than so many times as fast: what
memory is worth is a matter of taste, which no benchmark tells."""
LARGEST_BATCH = 512
"""Targets at a time, and half as many in each thread where these work apart: more would not be faster
(`python benchmarks/costs.py --strips`)."""
# Times of a multiply-add against one of a large float32 product: `python benchmarks/costs.py --atoms
# 32768 --dim 2048 --repeats 1`, on two cores of a Xeon with AMX (Emerald Rapids), 2026-11-27: the second
# of two runs, since others had the machine in the first. Not measured since on processors without
# AMX: there they may choose an exact search that is not the fastest.
COSTS = {Way.FLOAT: 1.12, Way.BYTES: 0.12, Way.BFLOAT16: 0.63}
"""Of products with all atoms, with the search for the largest of them."""
SLOW_BFLOAT16 = 5.2
"""Without instructions for it, a CPU multiplies bfloat16 slower than float32."""
BASIS_COST = 57
"""Of a basis, which is read from memory: measured with `Way.BYTES`, taken for all."""
GRAM_COSTS = {torch.int16: 2.6, torch.int8: 3.2}
"""Where rows of a Gram matrix are combined."""
GUESS_COSTS = {torch.int16: 6.3, torch.int8: 13.9}
"""Of products with the support, for a guess: the coarser the matrix, the more atoms may be right."""
WORKSPACE = 16 << 20
"""What the kernels' threads and the products' packing take beside the tables counted here."""


@dataclass(frozen=True)
class Plan:
    """A search that fits."""

    way: Way
    batch: int
    """Targets at a time; where there is no Gram matrix, in each thread."""
    bytes: int
    """Memory that it takes, beside inputs that already are in the working dtype."""
    cost: float
    """Multiply-adds, weighted by how fast they go."""
    gram: torch.dtype | None = None
    verified: bool = True

    @property
    def search(self) -> str:
        """One of "reference", "screened" and "gram"."""
        return self.way.search

    def __str__(self) -> str:
        kind = f" ({str(self.gram).removeprefix('torch.')})" if self.gram else ""
        return (
            f"search {self.search}{kind}{'' if self.verified else ', unverified'},"
            f" {self.bytes / 1e9:.1f} GB of memory, {self.cost:.2g} multiply-adds,"
            f" {self.batch} targets at a time"
        )


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
        raise ValueError(_nothing_fits(search, plans, budget, problem.atoms.device))
    least = min(plan.cost for plan in fitting)
    plan = min(
        (plan for plan in fitting if plan.cost <= THRIFT * least), key=lambda plan: plan.bytes
    )
    sizes = len(problem.targets), len(problem.atoms), problem.sparsity
    LOG.info("pursuit of %d targets over %d atoms, k = %d: %s", *sizes, plan)
    return plan


def without_gram(problem: Problem, budget: int) -> Plan:
    """The plan for what a Gram matrix was not precise enough for; one target at a time if need be.

    The reference where all else is coarser still.
    """
    fast = Way.BYTES in available(problem.atoms.device)
    return _lockstep(problem, Way.BYTES if fast else Way.FLOAT, budget)


def _answers(plan: Plan, search: str) -> bool:
    if search == "auto":
        return plan.verified
    if search == "fast":
        return not plan.verified
    return plan.verified and plan.search == search


def _nothing_fits(search: str, plans: list[Plan], budget: int, device: torch.device) -> str:
    if not plans:
        (way,) = (way for way in Way if way.search == search)
        return f"search {search!r} cannot run here: {obstacle(way, device)}; write 'auto'"
    least = min(plan.bytes for plan in plans)
    return (
        f"search {search!r} needs at least {least / 1e9:.2f} GB of memory and may take"
        f" {budget / 1e9:.2f} GB: raise `memory`" + ("" if search == "auto" else " or write 'auto'")
    )


def _plans(problem: Problem, budget: int) -> list[Plan]:
    plans = []
    for way in available(problem.atoms.device):
        if way is not Way.GRAM:
            plans.append(_lockstep(problem, way, budget))
            continue
        for dtype in gram.STEPS:
            plans += [_gram(problem, dtype, budget, verified) for verified in (True, False)]
    return plans


def _sized(
    each: int, fixed: int, count: int, budget: int, largest: int, threads: int = 1
) -> tuple[int, int]:
    """The batch of each thread, and the memory of all; what one target takes if not even that fits."""
    batch = power_of_two(min((budget - fixed) // (each * threads), largest))
    batch = min(batch, max(1, -(-count // threads)))
    return batch, fixed + batch * each * threads


def _lockstep(problem: Problem, way: Way, budget: int) -> Plan:
    targets, (atoms, dim) = len(problem.targets), problem.atoms.shape
    each, fixed = lockstep.bytes_per_target(problem), WORKSPACE
    threads = min(lockstep.threads_for(problem), max(1, targets))
    if way is Way.FLOAT:
        each += lockstep.search_bytes(problem)
    else:
        kind = bfloat16 if way is Way.BFLOAT16 else eight_bit
        each += kind.search_bytes(problem)
        fixed += kind.fixed_bytes(problem)
        if way is Way.BFLOAT16:
            fixed += threads * decision.bytes_at_once(problem)
    largest = LARGEST_BATCH // 2 if problem.atoms.device.type == "cpu" else LARGEST_BATCH
    batch, size = _sized(each, fixed, targets, budget, largest, threads)
    cost = float(targets) * problem.sparsity * dim
    cost *= atoms * _product_cost(way, problem.atoms.device) + problem.sparsity * BASIS_COST
    return Plan(way, batch, size, cost)


def _product_cost(way: Way, device: torch.device) -> float:
    slow = device.type == "cpu" and not has_instructions("avx512_bf16", "amx_bf16")
    return SLOW_BFLOAT16 if slow and way is Way.BFLOAT16 else COSTS[way]


def _gram(problem: Problem, dtype: torch.dtype, budget: int, verified: bool) -> Plan:
    targets, (atoms, dim) = len(problem.targets), problem.atoms.shape
    k = problem.sparsity
    scalar = problem.atoms.element_size()
    fixed = WORKSPACE + gram.bytes_of(problem, dtype)
    each = atoms * scalar + k * (scalar + 8)
    batch, size = _sized(each, fixed, targets, budget, LARGEST_BATCH)
    passes = k * k / 2 if verified else k * k / 32
    once = atoms * atoms * dim / 2
    guesses = GUESS_COSTS[dtype] * k * k * dim
    cost = once + targets * (atoms * (dim + GRAM_COSTS[dtype] * passes) + guesses)
    return Plan(Way.GRAM, batch, size, cost, gram=dtype, verified=verified)
