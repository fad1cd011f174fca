"""How the time of a pursuit grows with atoms, targets, dimensions and k, one at a time.

    python benchmarks/scaling.py --atoms 8192 --dim 1024 --k 64 --targets 256

Each size is doubled and halved from that point with the others held. The exponent is the slope of
log time against log size: 1 is linear. Set-up (the Gram matrix) is timed apart from the rest.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from dictionaries import embeddings, machine

from mergekit_omp.pursuit import gram
from mergekit_omp.pursuit.choice import choose
from mergekit_omp.pursuit.problem import prepare
from mergekit_omp.pursuit.solve import solve_planned

FACTORS = (0.5, 1.0, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atoms", type=int, default=8192)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--targets", type=int, default=256)
    parser.add_argument("--search", nargs="+", default=["gram", "screened", "reference"])
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    print(f"machine: {machine()}")
    print(f"problem: {vars(options)}\n")
    base = {name: getattr(options, name) for name in ("atoms", "targets", "dim", "k")}
    print(f"{'search':<11}{'varied':<9}{'size':>7}{'set-up s':>10}{'solve s':>9}{'exponent':>10}")
    for search in options.search:
        for varied in base:
            sizes = [int(base[varied] * factor) for factor in FACTORS]
            spent = [_time(search, options.repeats, **{**base, varied: size}) for size in sizes]
            slope = math.log(spent[-1][1] / spent[0][1]) / math.log(sizes[-1] / sizes[0])
            for size, (set_up, solve) in zip(sizes, spent, strict=True):
                shown = f"{slope:>10.2f}" if size == sizes[-1] else ""
                print(f"{search:<11}{varied:<9}{size:>7}{set_up:>10.2f}{solve:>9.2f}{shown}")


def _time(
    search: str, repeats: int, atoms: int, targets: int, dim: int, k: int
) -> tuple[float, float]:
    problem = prepare(embeddings(targets, dim, seed=2), embeddings(atoms, dim, seed=1), k, None)
    plan = choose(problem, search, None)
    begun = time.perf_counter()
    table = None if plan.gram is None else gram.build(problem, plan.gram)
    set_up = time.perf_counter() - begun
    solve_planned(problem.subset(torch.arange(1)), plan, table=table)
    best = math.inf
    for _ in range(repeats):
        begun = time.perf_counter()
        solve_planned(problem, plan, table=table)
        best = min(best, time.perf_counter() - begun)
    return set_up, best


if __name__ == "__main__":
    main()
