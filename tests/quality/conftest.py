"""A benchmark of two models that are trained for a moment: it runs in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("benchmarks.quality", "beartype.beartype")

from tiny_plan import TINY  # noqa: E402

from benchmarks.quality.methods import chosen  # noqa: E402
from benchmarks.quality.results import PairResult  # noqa: E402
from benchmarks.quality.running import run  # noqa: E402


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
