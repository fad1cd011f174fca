"""What is measured at which size: the models, the pairs of them, and how much text."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.quality.corpus import Corpus, read_texts
from benchmarks.quality.models import MODELS, ModelSpec, make_models
from mergekit_omp.demo.corpus import CorpusSpec
from mergekit_omp.demo.training import Architecture, Training


@dataclass(frozen=True)
class Pair:
    """A base that gets a donor's tokenizer, by the names of the models."""

    base: str
    donor: str

    def __str__(self) -> str:
        return f"{self.base} <- {self.donor}"


@dataclass(frozen=True)
class Plan:
    """Models, pairs and text of one benchmark."""

    models: tuple[ModelSpec, ...]
    pairs: tuple[Pair, ...]
    corpus: CorpusSpec
    held_out_bytes: int
    """Of each kind of text."""
    document_characters: int

    def read(self, corpus: Path | None) -> Corpus:
        """Its text, with more of a folder where there is one."""
        return read_texts(corpus, self.corpus, self.held_out_bytes, self.document_characters)

    def specs(self, names: Collection[str]) -> list[ModelSpec]:
        """Its models of these names."""
        return [spec for spec in self.models if spec.name in names]

    def make(
        self, names: Collection[str], texts: Corpus, cache_dir: Path, **how: Any
    ) -> dict[str, Path]:
        """A directory for each of these models, by `make_models`, which says `how`."""
        specs = self.specs(names)
        read = [texts.mixed(spec.shares) for spec in specs]
        return make_models(specs, read, cache_dir, progress=True, **how)


_PAIRS = tuple(
    Pair(base, donor)
    for base, donor in ("XY", "XZ", "ZX", "YX", "ZY", "YZ", "XV", "ZV", "YV", "VZ")
)

SMALL = Plan(
    models=MODELS,
    pairs=_PAIRS,
    corpus=CorpusSpec(code_every=4, held_out_every=25, document_characters=1200),
    held_out_bytes=40_000,
    document_characters=1200,
)
"""Models of 2.6 to 3.1 million parameters, for a CPU."""


def _shrunk(spec: ModelSpec, vocab_size: int, steps: int) -> ModelSpec:
    size = replace(spec.architecture, hidden_size=spec.architecture.hidden_size // 4, layers=1)
    size = replace(size, heads=2, intermediate_size=2 * size.hidden_size)
    return replace(
        spec,
        vocab_size=vocab_size,
        architecture=size,
        training=replace(spec.training, steps=steps, batch_size=4, context=64, warmup=2),
    )


QUICK = Plan(
    models=tuple(_shrunk(spec, 1024 + 128 * i, 40) for i, spec in enumerate(MODELS[:3])),
    pairs=_PAIRS[1:3],
    corpus=CorpusSpec(keep_every=20, held_out_every=8, document_characters=1200),
    held_out_bytes=4_000,
    document_characters=1200,
)
"""Seconds: to see that everything runs. The models are too bad for the numbers to mean much."""


def _medium(
    spec: ModelSpec, hidden_size: int, heads: int, intermediate_size: int, vocab_size: int
) -> ModelSpec:
    size = replace(spec.architecture, hidden_size=hidden_size, heads=heads, layers=3)
    return replace(
        spec,
        vocab_size=vocab_size,
        architecture=replace(size, intermediate_size=intermediate_size),
        training=replace(spec.training, steps=1500, batch_size=16, learning_rate=2.5e-3),
    )


MEDIUM = replace(
    SMALL,
    models=(_medium(MODELS[0], 384, 6, 1024, 6144), _medium(MODELS[1], 448, 7, 1152, 7168)),
    pairs=(Pair("X", "Y"), Pair("Y", "X")),
)
"""Two models of 10 million parameters. What `--tokens` is for: hours on a CPU, with rests."""


def _grown(spec: ModelSpec, hidden_size: int, vocab_size: int, seed: int) -> ModelSpec:
    return replace(
        spec,
        vocab_size=vocab_size,
        architecture=Architecture(
            hidden_size=hidden_size,
            layers=12,
            heads=8,
            intermediate_size=hidden_size * 11 // 4,
            tied=spec.architecture.tied,
        ),
        training=Training(
            steps=1500, batch_size=64, context=256, learning_rate=1e-3, warmup=300, seed=seed
        ),
    )


LARGE = replace(
    SMALL,
    corpus=CorpusSpec(code_every=2, held_out_every=25, document_characters=1200),
    models=tuple(
        _grown(spec, hidden, vocabulary, seed)
        for spec, hidden, vocabulary, seed in zip(
            MODELS, (512, 640, 576, 448), (16384, 12288, 14336, 24576), range(11, 15), strict=True
        )
    ),
)
"""Models of 50 million parameters and more, for a GPU."""

PLANS = {"3M": SMALL, "10M": MEDIUM, "50M": LARGE}
