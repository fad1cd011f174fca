"""A whole benchmark: text, models, then pair after pair, with the results so far after each."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.quality import scoring_whole
from benchmarks.quality.corpus import Document
from benchmarks.quality.long_training import make_long_models
from benchmarks.quality.measuring import Measured, PairBench
from benchmarks.quality.methods import Method
from benchmarks.quality.packages import PACKAGES
from benchmarks.quality.plans import Pair, Plan
from benchmarks.quality.plots import draw
from benchmarks.quality.published import make_published, spelled
from benchmarks.quality.results import PairResult
from benchmarks.quality.tables import report


def run(
    plan: Plan,
    pairs: Sequence[Pair],
    methods: Sequence[Method],
    *,
    corpus: Path | None,
    cache_dir: Path,
    out: Path,
    device: str = "cpu",
    jobs: int = 2,
    again: bool = False,
    tokens: Mapping[str, int] | None = None,
    every: int = 1,
) -> list[PairResult]:
    """Measures the pairs one after the other; what is there so far is in `out` after each.

    Args:
        plan: the models and the text.
        pairs: who gets whose tokenizer.
        methods: zero rows and the paper's settings among them.
        corpus: a folder of more text.
        cache_dir: where models and scores are kept.
        out: where quality.md, quality.json and the plots go.
        device: where models are trained and scored, and merges run.
        jobs: models trained at once.
        again: make scores again that are in the cache.
        tokens: how many tokens each model sees, of more text; None: as many as the plan says.
        every: of the held-out documents every so many-th is scored.
    """
    _say("Reading text.")
    texts = plan.read(corpus)
    named = {name for pair in pairs for name in (pair.base, pair.donor)}
    published = {name: make_published(name, cache_dir) for name in sorted(named & PACKAGES.keys())}
    used = named - PACKAGES.keys()
    specs = plan.specs(used)
    _say(f"Models {', '.join(spec.name for spec in specs)}, where they are not made yet.")
    if tokens is None:
        models = plan.make(used, texts, cache_dir, processes=jobs, device=device)
    else:
        models = make_long_models(
            specs, texts, plan.document_characters, tokens, cache_dir, processes=jobs
        )
    results: list[PairResult] = []
    held_out = texts.held_out[::every]
    models = {**models, **published}
    for pair in pairs:
        base, donor = models[pair.base], models[pair.donor]
        documents: Sequence[Document] = held_out
        if pair.base in PACKAGES:
            documents = spelled(held_out, donor)
            bench = PairBench(base, donor, documents, cache_dir, device, scoring_whole.score, False)
        else:
            bench = PairBench(base, donor, documents, cache_dir, device)
        own = bench.own(again)
        # One by one: models cannot be loaded in several threads at once.
        found = [_measured(bench, str(pair), again, method) for method in methods]
        labels = [method.label for method in methods]
        results.append(PairResult(pair, documents, own, dict(zip(labels, found, strict=True))))
        write(results, out)
    return results


def _measured(bench: PairBench, pair: str, again: bool, method: Method) -> Measured:
    measured = bench.measure(method, again)
    bits = sum(document.bits for document in measured.documents)
    size = sum(document.bytes for document in measured.documents)
    _say(f"{pair}, {method.label}: {bits / size:.3f} bits per byte")
    return measured


def write(results: Sequence[PairResult], out: Path) -> None:
    """quality.md, quality.json and the plots."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "quality.md").write_text(report(results), encoding="utf-8")
    scores = [
        {
            "pair": asdict(result.pair),
            "kinds": [document.kind for document in result.documents],
            "own": asdict(result.own),
            "methods": {
                label: {**asdict(measured), "compared": asdict(result.compared[label])}
                for label, measured in result.methods.items()
            },
        }
        for result in results
    ]
    (out / "quality.json").write_text(json.dumps(scores, indent=1), encoding="utf-8")
    draw(results, out)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
