"""A benchmark of two models that are trained for a moment: it runs in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("benchmarks.quality", "beartype.beartype")

from benchmarks.quality.methods import chosen  # noqa: E402
from benchmarks.quality.models import ModelSpec  # noqa: E402
from benchmarks.quality.plans import Pair, Plan  # noqa: E402
from benchmarks.quality.results import PairResult  # noqa: E402
from benchmarks.quality.running import run  # noqa: E402
from mergekit_omp.demo.corpus import CorpusSpec  # noqa: E402
from mergekit_omp.demo.training import Architecture, Training  # noqa: E402


def tiny_model(name: str, style: str, *, tied: bool) -> ModelSpec:
    return ModelSpec(
        name,
        style,
        vocab_size=768,
        architecture=Architecture(
            hidden_size=32, layers=1, heads=2, intermediate_size=48, tied=tied, positions=256
        ),
        training=Training(steps=3, batch_size=4, context=32, learning_rate=1e-2, warmup=2),
        shares={"prose": 1.0, "code": 1.0, "arithmetic": 0.5},
    )


TINY = Plan(
    models=(
        tiny_model("S", "sentencepiece", tied=False),
        tiny_model("B", "byte-level, single digits", tied=True),
    ),
    pairs=(Pair("S", "B"),),
    corpus=CorpusSpec(keep_every=60, held_out_every=8, document_characters=1200),
    held_out_bytes=4000,
    document_characters=1200,
)


@dataclass(frozen=True)
class Bench:
    """A finished benchmark, and where everything lies."""

    results: list[PairResult]
    cache: Path
    out: Path
    corpus: Path

    @property
    def models(self) -> dict[str, Path]:
        return {path.name[0]: path for path in (self.cache / "models").iterdir()}


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("quality")
    corpus = root / "corpus"
    corpus.mkdir()
    written = "\n\n".join(f"The story of number {i} begins with a long walk." for i in range(200))
    (corpus / "stories.txt").write_text(written)
    out = root / "out"
    results = run(
        TINY, TINY.pairs, chosen(["omp 8"]), corpus=corpus, cache_dir=root / "cache", out=out
    )
    return Bench(results, root / "cache", out, corpus)
