"""Trains small causal language models on a CPU, in a minute or two, reproducibly.

The aim is not a good model, but one whose embeddings mean something: it predicts text far better
with its own vocabulary rows than with zeros or averages in their place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from mergekit_omp.demo.descent import descend


@dataclass(frozen=True)
class Architecture:
    """A Llama of this size."""

    hidden_size: int = 160
    layers: int = 3
    heads: int = 4
    intermediate_size: int = 448
    tied: bool = False
    positions: int = 512

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of twice the {self.heads} heads"
            )


@dataclass(frozen=True)
class Training:
    """How long to train, and how. `steps` may be 0: then the model stays as initialised."""

    steps: int = 400
    batch_size: int = 16
    context: int = 128
    learning_rate: float = 5e-3
    weight_decay: float = 0.05
    warmup: int = 30
    seed: int = 0


def train_model(
    architecture: Architecture,
    training: Training,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    progress_line: int | None = None,
    label: str = "training",
) -> LlamaForCausalLM:
    """A model of `tokenizer`'s vocabulary, trained on `texts`.

    The same arguments give the same weights on one machine and one number of threads; the global
    random state is left as it was. `progress_line` is the line of the terminal for a progress bar
    that `label` names, or None for no bar.

    Raises:
        ValueError: the texts are shorter than one batch of windows.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = LlamaForCausalLM(_config(architecture, tokenizer))
    # Only now: made with it, the model would hold that row at zero.
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    if training.steps:
        train_further(model, training, tokenizer, texts, progress_line=progress_line, label=label)
    return model.eval()


def train_further(
    model: LlamaForCausalLM,
    training: Training,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    progress_line: int | None = None,
    label: str = "training",
) -> None:
    """Trains a model in place, as `train_model` trains a new one. Raises what it raises."""
    stream = token_stream(tokenizer, texts)
    _fit(model, training, stream, progress_line=progress_line, label=label)


def _config(architecture: Architecture, tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden_size,
        intermediate_size=architecture.intermediate_size,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.heads,
        max_position_embeddings=architecture.positions,
        tie_word_embeddings=architecture.tied,
        # About 1/sqrt(hidden size): the usual 0.02 is for larger models and learns slower here.
        initializer_range=0.9 / math.sqrt(architecture.hidden_size),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def token_stream(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, with_eos: bool = True
) -> Int64[Tensor, "tokens"]:
    """All texts one after the other, each with bos before it, and eos after it `with_eos`."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    after = (tokenizer.eos_token_id,) if with_eos else ()
    return torch.tensor([i for ids in encoded for i in (tokenizer.bos_token_id, *ids, *after)])


def _batches(
    stream: Int64[Tensor, "tokens"], training: Training
) -> Iterator[Int64[Tensor, "batch window"]]:
    """Shuffled windows of the stream, cut elsewhere in every pass through it."""
    window = training.context + 1
    if len(stream) < window * (training.batch_size + 1):
        raise ValueError(
            f"the texts have {len(stream)} tokens, and a batch needs "
            f"{window * (training.batch_size + 1)}: give more text, or a smaller batch_size or context"
        )
    draw = torch.Generator().manual_seed(training.seed)
    while True:
        offset = int(torch.randint(window, (), generator=draw))
        windows = stream[offset : offset + (len(stream) - offset) // window * window]
        windows = windows.view(-1, window)
        order = torch.randperm(len(windows), generator=draw)
        for rows in order.split(training.batch_size):
            if len(rows) == training.batch_size:
                yield windows[rows]


def _fit(
    model: LlamaForCausalLM,
    training: Training,
    stream: Int64[Tensor, "tokens"],
    *,
    progress_line: int | None,
    label: str,
) -> None:
    """AdamW, with a linear warm-up and a cosine decay to zero."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": training.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=training.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    batches = _batches(stream, training)

    def loss() -> Tensor:
        batch = next(batches)
        logits = model(batch[:, :-1]).logits
        return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    model.train()
    descend(
        list(model.parameters()),
        optimizer,
        loss,
        steps=training.steps,
        warmup=training.warmup,
        decay=lambda step: 0.5 * (1 + math.cos(math.pi * step / training.steps)),
        label=label,
        progress_line=progress_line,
    )
