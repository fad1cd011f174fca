"""The constants by which `pursuit/choice.py` weighs searches, as they are on this machine.

    python benchmarks/costs.py
    python benchmarks/costs.py --kriging    those of `kriging`'s estimates instead
    python benchmarks/costs.py --blocks     how far a Gram search speculates (LONGEST, LISTED) instead
    python benchmarks/costs.py --strips     how much screening takes at once (STRIP, LARGEST_BATCH), and
                                            how many candidates it leaves (CAPACITY) instead

Times of a multiply-add against those of one of a large float32 product, which is measured beside
each; the least of `--repeats`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from dictionaries import embeddings, machine

from mergekit_omp.approximation.features import FeatureBlock, FeatureRows, anchor_features
from mergekit_omp.approximation.neighbours import coarse_anchors, nearest_anchors
from mergekit_omp.pursuit import candidates, compiled, eight_bit, gram
from mergekit_omp.pursuit.gram import STEPS, build, solve_by_gram
from mergekit_omp.pursuit.lockstep import State
from mergekit_omp.pursuit.problem import Problem, prepare
from mergekit_omp.pursuit.solve import search_by
from mergekit_omp.pursuit.ways import Way, available


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atoms", type=int, default=16384)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--targets", type=int, default=512)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kriging", action="store_true", help="its constants, instead")
    parser.add_argument("--blocks", action="store_true", help="LONGEST and LISTED, instead")
    parser.add_argument("--strips", action="store_true", help="STRIP, LARGEST_BATCH, CAPACITY")
    options = parser.parse_args()
    print(f"{machine()}\n{vars(options)}\n")
    if options.kriging:
        kriging(options.atoms, options.targets, options.dim, options.repeats)
        return
    if options.strips:
        strips(embeddings(options.atoms, options.dim, seed=1), options.repeats)
        return
    targets = embeddings(options.targets, options.dim, seed=2)
    atoms = embeddings(options.atoms, options.dim, seed=1)
    problem = prepare(targets, atoms, options.k, None)
    if options.blocks:
        blocks(problem, options.repeats)
        return

    def least(work: Callable[[], object]) -> float:
        """Against the float32 product of all targets and atoms."""
        work()
        ratios = []
        for _ in range(options.repeats):
            unit = seconds(lambda: targets @ atoms.T) / (targets.numel() * len(atoms))
            ratios.append(seconds(work) / unit)
        return min(ratios)

    size = float(targets.numel() * len(atoms))
    free = torch.zeros(len(targets), len(atoms), dtype=torch.bool)
    ways = available(torch.device("cpu"))
    for way in ways:
        if way is not Way.GRAM:
            search = search_by(problem, way)
            print(f"COSTS[{way}]: {least(partial(search.find, targets, free)) / size:.2f}")
    half = grown(problem, options.k // 2)
    rows, picks = half.active, torch.arange(options.k // 2, options.k // 2 + len(targets))
    best = (targets * atoms[picks]).sum(dim=1).abs() + 1
    spent = least(lambda: half_step(half, rows, best, picks))
    print(f"BASIS_COST: {spent / (targets.numel() * options.k / 2):.0f}")
    if Way.GRAM not in ways or compiled.obstacle():
        return
    passes = options.k**2 / 2
    for dtype in STEPS:
        times = []
        for count in (options.atoms // 2, options.atoms):
            part = prepare(targets, atoms[:count], options.k, None)
            table = build(part, dtype)
            spent = least(partial(solve_by_gram, part, table, options.targets))
            times.append(spent / len(targets))
        slope = 2 * (times[1] - times[0]) / options.atoms
        once = times[0] - slope * options.atoms / 2
        print(f"GRAM_COSTS[{dtype}]: {(slope - options.dim) / passes:.1f}")
        print(f"GUESS_COSTS[{dtype}]: {once / options.k**2 / options.dim:.1f}")


def blocks(problem: Problem, repeats: int) -> None:
    """Processor time of a target, by iterations of a block and atoms on a shortlist."""
    table, dtype = build(problem, torch.int16), problem.atoms.dtype
    usual = gram.LIMITS[dtype]
    for longest in (8, usual.longest, 2 * usual.longest):
        for listed in (usual.listed // 2, usual.listed, 2 * usual.listed):
            gram.LIMITS[dtype] = usual._replace(longest=longest, listed=listed)
            times = []
            for _ in range(repeats + 1):
                began = time.process_time()
                solve_by_gram(problem, table, len(problem.targets))
                times.append(time.process_time() - began)
            each = min(times[1:]) / len(problem.targets)
            print(f"LONGEST {longest}, LISTED {listed}: {each * 1e3:.2f} ms of processor time")
    gram.LIMITS[dtype] = usual


def strips(atoms: torch.Tensor, repeats: int) -> None:
    """Processor time of one residual, by atoms of a strip and residuals at a time."""
    largest = 0

    def collect(*arguments: Any) -> None:
        nonlocal largest
        candidates.collect(*arguments)
        largest = max(largest, int(arguments[-1].counts.max()))

    usual = eight_bit.STRIP
    setattr(eight_bit, "collect", collect)  # noqa: B010
    for batch in (128, 256, 512, 1024):
        problem = prepare(embeddings(batch, atoms.shape[1], seed=2), atoms, 1, None)
        search = eight_bit.EightBit(problem)
        free = torch.zeros(batch, len(atoms), dtype=torch.bool)
        for strip in (usual // 2, usual, 2 * usual):
            eight_bit.STRIP = strip
            times = []
            for _ in range(repeats + 1):
                began = time.process_time()
                search.find(problem.targets, free)
                times.append(time.process_time() - began)
            each = min(times[1:]) / batch
            print(f"batch {batch}, STRIP {strip}: {each * 1e6:.0f} us of processor time")
    print(f"candidates of a residual after a strip: at most {largest}")
    eight_bit.STRIP = usual


def kriging(anchors: int, targets: int, dim: int, repeats: int) -> None:
    """What comparing with an anchor, deciding among candidates, and reading a feature take next to
    a multiply-add."""
    matrix = embeddings(anchors + targets, dim, seed=1).to(torch.bfloat16)
    missing = FeatureRows.all_finite(matrix[anchors:])
    blocks = [
        FeatureBlock.of(FeatureRows.all_finite(matrix[:count]), missing)
        for count in (anchors // 2, anchors)
    ]
    coarse = [coarse_anchors([block], torch.float32) for block in blocks]
    one, other = matrix[:anchors].float(), matrix[anchors:].float()
    found: list[list[float]] = []
    for _ in range(repeats + 1):
        unit = seconds(lambda: other @ one.T) / other.numel()
        half, whole = (
            seconds(partial(nearest_anchors, [b], 16, torch.float32, coarse=c)) / other.numel()
            for b, c in zip(blocks, coarse, strict=True)
        )
        read = seconds(lambda: anchor_features(blocks[1:], slice(None), torch.float32))
        found.append(
            [
                (whole - half) * 2 / unit,
                (2 * half - whole) / unit * anchors,
                read / one.numel() / unit * anchors,
            ]
        )
    for name, values in zip(
        ("COMPARED", "DECIDED", "READ"), zip(*found[1:], strict=True), strict=True
    ):
        print(f"{name}: {sorted(values)[len(values) // 2]:.3g}")


def grown(problem: Problem, size: int) -> State:
    """Targets in flight that have so many atoms."""
    state = State(problem)
    for at in range(size):
        picks = torch.full((len(problem.targets),), at)
        best = (state.residuals @ problem.atoms[at]).abs() + 1
        state.advance(state.active, best, picks)
    return state


def half_step(state: State, rows: torch.Tensor, best: torch.Tensor, picks: torch.Tensor) -> None:
    """One more atom for each, which the next call writes over."""
    sizes, kept = state.sizes.clone(), state.residuals.clone()
    state.advance(rows, best, picks)
    state.sizes.copy_(sizes)
    state.residuals.copy_(kept)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
