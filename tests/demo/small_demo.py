"""A demo that trains for seconds: models too small to be good, and large enough to be real."""

from __future__ import annotations

from mergekit_omp.demo.corpus import CorpusSpec
from mergekit_omp.demo.models import DemoSpec, ModelSpec
from mergekit_omp.demo.tokenizers import TokenizerStyle
from mergekit_omp.demo.training import Architecture, Training


def small_model(style: TokenizerStyle, *, steps: int = 3, tied: bool = False) -> ModelSpec:
    return ModelSpec(
        name=style.value.replace("_", "-"),
        style=style,
        vocab_size=768,
        architecture=Architecture(
            hidden_size=32, layers=1, heads=2, intermediate_size=48, tied=tied, positions=256
        ),
        training=Training(steps=steps, batch_size=4, context=32, learning_rate=1e-2, warmup=2),
    )


SMALL_DEMO = DemoSpec(
    corpus=CorpusSpec(keep_every=60, held_out_every=8),
    base=small_model(TokenizerStyle.SENTENCEPIECE),
    donor=small_model(TokenizerStyle.BYTE_LEVEL),
)
