"""Time of an exact pursuit against mergekit's `batch_omp` and scikit-learn, on one machine.

    python benchmarks/omp_speed.py --atoms 32768 --dim 2048 --k 64 --targets 20000 --slice 2048

Each solver gets a slice of the targets; ours pays its whole set-up (such as the Gram matrix) and
is extrapolated from the slice to `--targets`, as are the peers. Runs alternate, so that all see
the machine in the same state; the best of `--repeats` counts for each. The last two columns are of
processor time, of all threads: where others use the machine too, these can be compared. Threads
that wait must then sleep: OMP_WAIT_POLICY=passive.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from dictionaries import embeddings, machine
from torch import Tensor

from mergekit_omp.pursuit import SparseCode, gram
from mergekit_omp.pursuit.choice import Plan, choose
from mergekit_omp.pursuit.problem import Problem, prepare
from mergekit_omp.pursuit.solve import solve_planned

os.environ.setdefault("MERGEKIT_OMP_DISABLE", "1")

T = TypeVar("T")


def main() -> None:
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"machine: {machine()}")
    print(f"problem: {vars(options)}")
    atoms = embeddings(options.atoms, options.dim, seed=1)
    targets = embeddings(options.targets, options.dim, seed=2)
    memory = int(options.memory * 1e9) if options.memory else None
    whole = prepare(targets, atoms, options.k, None)
    rows = torch.linspace(0, options.targets - 1, options.slice).long()
    part = whole.subset(rows)
    tables = _Tables(whole)
    solvers = {name: _Ours(whole, name, memory, tables) for name in options.search}
    peers: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {}
    if options.peer_slice:
        peers["batch_omp"] = lambda: _batch_omp(part, options.peer_slice)
    if options.sklearn_slice:
        peers["orthogonal_mp_gram"] = lambda: _scikit_learn(part, options.sklearn_slice)
    times: dict[str, list[Spent]] = {name: [] for name in (*solvers, *peers)}
    codes: dict[str, SparseCode] = {}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    set_up = {name: solver.set_up for name, solver in solvers.items()}
    sizes = {"batch_omp": options.peer_slice, "orthogonal_mp_gram": options.sklearn_slice}
    for _ in range(options.repeats):
        for name, solver in solvers.items():
            codes[name], spent = timed(partial(solver.solve, part))
            times[name].append(spent / options.slice)
        for name, peer in peers.items():
            found[name], spent = timed(peer)
            times[name].append(spent / sizes[name])
    _table(options, times, set_up, codes, found, part)


class Spent(NamedTuple):
    """Seconds that something took."""

    wall: float
    processor: float
    """Of all threads."""

    def __truediv__(self, parts: float) -> Spent:
        return Spent(self.wall / parts, self.processor / parts)


def timed(work: Callable[[], T]) -> tuple[T, Spent]:
    """What some work returns, and what it takes."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, Spent(time.perf_counter() - wall, time.process_time() - processor)


class _Tables:
    """Gram matrices, built and timed once for each dtype."""

    def __init__(self, whole: Problem) -> None:
        self.whole = whole
        self.built: dict[torch.dtype, tuple[gram.Gram, Spent]] = {}

    def get(self, dtype: torch.dtype) -> tuple[gram.Gram, Spent]:
        if dtype not in self.built:
            self.built[dtype] = timed(lambda: gram.build(self.whole, dtype))
        return self.built[dtype]


class _Ours:
    """One of our searches: its set-up, which every search pays in full, and its rate."""

    def __init__(self, whole: Problem, search: str, memory: int | None, tables: _Tables) -> None:
        self.plan: Plan = choose(whole, search, memory)
        self.table: gram.Gram | None = None
        self.set_up = Spent(0, 0)
        if self.plan.gram is not None:
            self.table, self.set_up = tables.get(self.plan.gram)
        self.solve(whole.subset(torch.arange(2)))  # compiles, or loads what is compiled

    def solve(self, part: Problem) -> SparseCode:
        return solve_planned(part, self.plan, table=self.table)


def _batch_omp(part: Problem, count: int) -> tuple[Tensor, Tensor]:
    from mergekit.tokensurgeon import batch_omp

    return batch_omp(part.targets[:count], part.atoms, part.sparsity)


def _scikit_learn(part: Problem, count: int) -> tuple[Tensor, Tensor]:
    from sklearn.linear_model import orthogonal_mp_gram

    targets = part.targets[:count].double()
    atoms = part.atoms.double()
    table = (atoms @ atoms.T).numpy()
    starts = (atoms @ targets.T).numpy()
    dense = torch.from_numpy(orthogonal_mp_gram(table, starts, n_nonzero_coefs=part.sparsity))
    dense = dense.reshape(len(atoms), count).T
    _, indices = dense.abs().topk(part.sparsity, dim=1)
    return indices, dense.gather(1, indices)


def _table(
    options: argparse.Namespace,
    times: dict[str, list[Spent]],
    set_up: dict[str, Spent],
    codes: dict[str, SparseCode],
    found: dict[str, tuple[Tensor, Tensor]],
    part: Problem,
) -> None:
    none = Spent(0, 0)
    rates = {name: Spent(*map(min, *spent, spent[0])) for name, spent in times.items()}
    total = {
        name: Spent(
            *(
                once + rate * options.targets
                for once, rate in zip(set_up.get(name, none), rates[name], strict=True)
            )
        )
        for name in times
    }
    reference = total.get("batch_omp", max(total.values()))
    print(
        f"\n{'solver':<20}{'set-up s':>9}{'ms/target':>11}{'all s':>9}{'times':>8}"
        f"{'same support':>14}{'residual':>12}{'processor s':>13}{'times':>8}"
    )
    expected = found.get("batch_omp")
    for name in times:
        code = codes.get(name)
        same, residual = "", ""
        if code is not None:
            count = len(code.indices) if expected is None else len(expected[0])
            residual = f"{code.residual_norms[:count].mean():.6f}"
            if expected is not None:
                agree = (code.indices[:count].sort(1)[0] == expected[0].sort(1)[0]).all(dim=1)
                same = f"{int(agree.sum())}/{count}"
        elif name in found:
            indices, coefficients = found[name]
            left = part.targets[: len(indices)] - SparseCode(
                indices, coefficients, coefficients[:, 0]
            ).decode(part.atoms)
            residual = f"{left.norm(dim=1).mean():.6f}"
        print(
            f"{name:<20}{set_up.get(name, none).wall:>9.1f}{rates[name].wall * 1e3:>11.2f}"
            f"{total[name].wall:>9.0f}{reference.wall / total[name].wall:>8.1f}{same:>14}{residual:>12}"
            f"{total[name].processor:>13.0f}{reference.processor / total[name].processor:>8.1f}"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory of the process, peers included: {peak / 1e9:.2f} GB")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atoms", type=int, default=8192)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--targets", type=int, default=20000, help="what times are scaled to")
    parser.add_argument(
        "--slice",
        type=int,
        default=2048,
        help="targets that ours solves: so many that each thread has several batches; with few, the"
        " targets that a Gram matrix cannot solve weigh too much",
    )
    parser.add_argument(
        "--peer-slice", type=int, default=512, help="targets for batch_omp; 0: none"
    )
    parser.add_argument("--sklearn-slice", type=int, default=0)
    parser.add_argument("--search", nargs="+", default=["auto", "fast"])
    parser.add_argument("--memory", type=float, help="budget in GB")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
