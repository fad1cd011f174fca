"""What training the approximated rows wins, step by step, and what a better start saves.

Swaps tokenizers between the models of `benchmarks/quality` (trained by it where they are not made
yet), heals each swap by `mergekit_omp.healing` from several starts, and prints bits per byte of the
held-out text by steps. What was healed once is not healed again, and a run that is killed goes on
where it was:

    python -m benchmarks.healing --corpus FOLDER --out DIR --pairs X:Z Z:X

With `--ceiling` the rows of `kriging` alone are trained, for longer, and every method is told by its
share of what they win over zero rows. With `--lora R` adapters of rank R are trained beside the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import transformers

from benchmarks.quality.cache import default_cache_dir
from benchmarks.quality.measuring import Measured, PairBench
from benchmarks.quality.merging import merge
from benchmarks.quality.methods import METHODS, ZERO, Method, chosen
from benchmarks.quality.plans import SMALL
from benchmarks.quality.scoring import score
from mergekit_omp.healing.heal import heal
from mergekit_omp.healing.settings import Settings
from mergekit_omp.healing.texts import Parted

SHOWN = (0, 25, 50, 100, 150, 200, 300)
"""Steps in the table."""
PATIENCE = 8
"""Evaluations, one in 25 steps, that may pass on the way to the ceiling without a lower loss."""


@dataclass(frozen=True)
class Healed:
    """Bits per byte of the held-out text by steps, from one start."""

    pair: str
    start: str
    folder: Path
    """The healed model."""
    own: float
    """The base's with its own tokenizer."""
    curve: dict[int, float]
    interval: tuple[float, float]
    """Of what all steps won."""

    @property
    def best(self) -> float:
        return min(self.curve.values())

    def steps_to(self, level: float) -> int | None:
        """After how many steps it was as good as `level`."""
        return next((step for step, value in sorted(self.curve.items()) if value <= level), None)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.healing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="where results are kept")
    parser.add_argument("--corpus", type=Path, help="a folder of .txt files: more text")
    parser.add_argument("--cache", type=Path, help="where models and scores are kept")
    parser.add_argument("--pairs", nargs="+", default=["X:Z", "Z:X"], metavar="BASE:DONOR")
    parser.add_argument("--starts", nargs="+", default=["zero", "omp", "kriging"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=Settings.rate, help="see Settings")
    parser.add_argument("--lora", type=int, metavar="R", help="adapters too, of this rank")
    parser.add_argument(
        "--ceiling", type=int, metavar="STEPS", help="at most so many, to the ceiling"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["omp", "linear", "kriging"],
        metavar="LABEL",
        help="whose share of the ceiling is told, beside that of the paper's omp",
    )
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    cache = arguments.cache or default_cache_dir()
    asked = partial(Settings, rate=arguments.rate, lora=arguments.lora)
    if arguments.ceiling:
        for pair in arguments.pairs:
            bench, texts = prepared(pair, arguments.corpus, cache)
            settings = asked(arguments.ceiling, patience=PATIENCE)
            reached = healed(bench, pair, "kriging", texts, arguments.out, settings)
            # Read as the methods are, which have shorter windows than `heal` reads.
            ceiling = rate(Measured(score(reached.folder, texts.held_out)))
            row = ceiling_row(reached, ceiling, bench, chosen(arguments.methods))
            print(row, flush=True)
        return
    settings = asked(arguments.steps, patience=arguments.steps)
    made = {pair: prepared(pair, arguments.corpus, cache) for pair in arguments.pairs}
    # A start of every pair first, so that a run that ends early has something of each.
    found = {
        (pair, start): healed(bench, pair, start, texts, arguments.out, settings)
        for start in arguments.starts
        for pair, (bench, texts) in made.items()
    }
    print(tables([found[pair, start] for pair in arguments.pairs for start in arguments.starts]))


def prepared(pair: str, corpus: Path | None, cache: Path) -> tuple[PairBench, Parted]:
    """The two models, what the base was trained on, and the held-out text."""
    base, _, donor = pair.partition(":")
    texts = SMALL.read(corpus)
    models = SMALL.make((base, donor), texts, cache)
    bench = PairBench(models[base], models[donor], texts.held_out, cache)
    (spec,) = SMALL.specs([base])
    read = texts.mixed(spec.shares)
    return bench, Parted(tuple(read), tuple(document.text for document in texts.held_out))


def healed(
    bench: PairBench,
    pair: str,
    start: str,
    texts: Parted,
    out: Path,
    settings: Settings,
) -> Healed:
    """One swap healed, from what is kept in `out` where it is."""
    name = f"{pair.replace(':', '-')}-{start.replace(' ', '-')}"
    run = f"{name}-{settings.steps}-{settings.rate:g}"
    if settings.lora:
        run += f"-lora-{settings.lora}"
    kept = out / f"{run}.json"
    if not kept.exists():
        out.mkdir(parents=True, exist_ok=True)
        swapped = out / name
        if not swapped.exists():
            (method,) = (method for method in METHODS if method.label == start)
            merge(method, bench.base, bench.donor, swapped)
        result = heal(
            str(swapped),
            str(out / run),
            texts,
            settings,
            progress=True,
            say=lambda line: print(f"{pair}, {start}: {line}", file=sys.stderr),
        )
        kept.write_text(json.dumps(result["healing"], indent=1), encoding="utf-8")
    bits = json.loads(kept.read_text(encoding="utf-8"))["bits_per_byte"]
    low, high = bits["won_interval"]
    return Healed(
        pair=pair,
        start=start,
        folder=out / run,
        own=rate(bench.own()),
        curve={0: bits["before"], **{int(step): value for step, value in bits["evaluations"]}},
        interval=(low, high),
    )


def tables(results: Sequence[Healed]) -> str:
    """Bits per byte by steps, then what a start saves."""
    known = [step for step in SHOWN if all(step in result.curve for result in results)]
    lines = [
        "| pair | start | " + " | ".join(f"{step} steps" for step in known) + " | won |",
        "|---|---|" + "---:|" * (len(known) + 1),
    ]
    for result in results:
        cells = [f"{result.curve[step]:.3f}" for step in known]
        low, high = result.interval
        cells.append(f"{result.curve[0] - result.best:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {arrow(result.pair)} | {result.start} | " + " | ".join(cells) + " |")
    lines += ["", "| pair | start | steps to what `kriging` has untrained | steps to its best |"]
    lines[-1] += " `kriging`'s steps to the best of this start |"
    lines += ["|---|---|---:|---:|---:|"]
    for pair in dict.fromkeys(result.pair for result in results):
        of_pair = {result.start: result for result in results if result.pair == pair}
        if "kriging" not in of_pair:
            continue
        best = of_pair["kriging"]
        for start, result in of_pair.items():
            reached = [result.steps_to(best.curve[0]), result.steps_to(best.best)]
            reached.append(best.steps_to(result.best))
            cells = [str(step) if step is not None else "not reached" for step in reached]
            lines.append(f"| {arrow(pair)} | {start} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ceiling_row(
    reached: Healed, ceiling: float, bench: PairBench, methods: Sequence[Method]
) -> str:
    """A pair's ceiling in bits per byte, and each method's share of what it wins over zero rows."""
    rates = {method.label: rate(bench.measure(method)) for method in methods}
    zero = rates.pop(ZERO)
    step = min(reached.curve, key=lambda step: reached.curve[step])
    cells = [f"own tokenizer {reached.own:.3f}", f"zero {zero:.3f}"]
    cells += [f"ceiling {ceiling:.3f} after {step} of {max(reached.curve)} steps"]
    cells += [
        f"{label} {value:.3f} ({(zero - value) / (zero - ceiling):.0%})"
        for label, value in rates.items()
    ]
    return f"| {arrow(reached.pair)} | " + " | ".join(cells) + " |"


def rate(measured: Measured) -> float:
    """Bits per byte."""
    documents = measured.documents
    return sum(document.bits for document in documents) / sum(d.bytes for d in documents)


def arrow(pair: str) -> str:
    return pair.replace(":", " <- ")


if __name__ == "__main__":
    main()
