"""The constants by which `pursuit/choice.py` weighs searches, as they are on this machine.

    python benchmarks/costs.py
    python benchmarks/costs.py --kriging    those of `kriging`'s estimates instead
    python benchmarks/costs.py --blocks     how far a Gram search speculates (LONGEST, LISTED) instead
    python benchmarks/costs.py --strips     how much screening takes at once (STRIP, LARGEST_BATCH), and
                                            how many candidates it leaves (CAPACITY) instead

Times of a multiply-add against that of one of a large float32 product; the least of `--repeats`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from dictionaries import embeddings, machine

from mergekit_omp.approximation.features import FeatureBlock, FeatureRows, anchor_features
from mergekit_omp.approximation.neighbours import coarse_anchors, nearest_anchors
from mergekit_omp.pursuit import candidates, eight_bit, gram
from mergekit_omp.pursuit.choice import choose
from mergekit_omp.pursuit.gram import STEPS, build, solve_by_gram
from mergekit_omp.pursuit.lockstep import in_batches, solve_in_lockstep
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
    if options.blocks:
        blocks(prepare(targets, atoms, options.k, None), options.repeats)
        return
    searches(targets, atoms, options.k, options.repeats)


def searches(targets: torch.Tensor, atoms: torch.Tensor, k: int, repeats: int) -> None:
    """What grows with the atoms, and what does not, by whole pursuits of a few of them and of all."""
    room = targets.new_empty(len(targets), len(atoms))
    unit = least(lambda: torch.mm(targets, atoms.T, out=room), repeats) / (
        room.numel() * atoms.shape[1]
    )
    few = len(atoms) // 16
    problems = [prepare(targets, atoms[:n], k, None) for n in (few, len(atoms))]

    def fitted(solvers: Sequence[Callable[[], object]]) -> tuple[float, float]:
        part, whole = (least(solve, repeats) / len(targets) / unit for solve in solvers)
        each = (whole - part) / (len(atoms) - few)
        return each, part - each * few

    dim = atoms.shape[1]
    for way in available(torch.device("cpu")):
        if way is not Way.GRAM:
            batch = choose(problems[1], way.search, None).batch
            each, once = fitted(
                [
                    partial(
                        in_batches, p, partial(solve_in_lockstep, search=search_by(p, way)), batch
                    )
                    for p in problems
                ]
            )
            print(f"COSTS[{way}]: {each / k / dim:.2f}; BASIS_COST: {once / k**2 / dim:.0f}")
            continue
        for dtype in STEPS:
            each, once = fitted(
                [partial(solve_by_gram, p, build(p, dtype), len(targets)) for p in problems]
            )
            print(f"GRAM_COSTS[{dtype}]: {(each - dim) * 2 / k**2:.1f}")
            print(f"GUESS_COSTS[{dtype}]: {once / k**2 / dim:.1f}")


def least(work: Callable[[], object], repeats: int) -> float:
    """Seconds, after one call that does not count."""
    return min([seconds(work) for _ in range(repeats + 1)][1:])


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
    usual, original = candidates.STRIP, candidates.collect

    def collect(*arguments: Any) -> None:
        nonlocal largest
        original(*arguments)
        largest = max(largest, int(arguments[-1].counts.max()))

    setattr(candidates, "collect", collect)  # noqa: B010
    for batch in (128, 256, 512, 1024):
        problem = prepare(embeddings(batch, atoms.shape[1], seed=2), atoms, 1, None)
        search = eight_bit.EightBit(problem)
        free = torch.zeros(batch, len(atoms), dtype=torch.bool)
        for strip in (usual // 2, usual, 2 * usual):
            candidates.STRIP = strip
            times = []
            for _ in range(repeats + 1):
                began = time.process_time()
                search.find(problem.targets, free)
                times.append(time.process_time() - began)
            each = min(times[1:]) / batch
            print(f"batch {batch}, STRIP {strip}: {each * 1e6:.0f} us of processor time")
    print(f"candidates of a residual after a strip: at most {largest}")
    candidates.STRIP = usual
    setattr(candidates, "collect", original)  # noqa: B010


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


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
