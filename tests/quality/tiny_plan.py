"""Two models that are trained for a moment, and one swap between them."""

from __future__ import annotations

from benchmarks.quality.models import ModelSpec
from benchmarks.quality.plans import Pair, Plan
from mergekit_omp.demo.corpus import CorpusSpec
from mergekit_omp.demo.training import Architecture, Training


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
