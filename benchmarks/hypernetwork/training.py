"""Trains a hypernetwork to predict the base's own rows from pieces: the paper's objective reduced.

Every token of the base is cut as it would be if it were not one, and in some ways more at random
(BPE-dropout, Provilkov et al. 2020); the network sees the rows of the pieces and learns the row of
the whole. A share of the tokens is kept out, and the weights of the step that predicts these best
are kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import tqdm
from torch import Tensor

from benchmarks.hypernetwork.making import Merges, merged, merges_of, random_weights
from mergekit_omp.approximation.base import Part
from mergekit_omp.approximation.hypernetwork.config import HypernetworkConfig
from mergekit_omp.approximation.hypernetwork.network import Network
from mergekit_omp.vocabulary import Vocabulary
from mergekit_omp.vocabulary.content import spelled


@dataclass(frozen=True)
class Training:
    """How long, and how."""

    steps: int = 600
    batch_size: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup: int = 50
    variants: int = 8
    """Ways in which a token is cut; the first is the one without chance."""
    dropout: float = 0.2
    """The share of merges that are left out in the others."""
    kept_out: float = 0.1
    """The share of tokens that are not learnt from."""
    check_every: int = 25
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Trained:
    """The weights, and the error on tokens that were kept out: 1 is that of the mean row."""

    weights: dict[str, Tensor]
    error: float
    step: int


def train(
    config: HypernetworkConfig,
    tokenizer: Mapping[str, Any],
    base: Vocabulary,
    matrices: Mapping[Part, Tensor],
    training: Training,
    *,
    progress: bool = False,
) -> Trained:
    """Trains on the base's matrices, which stay as they are."""
    parts = [Part.INPUT, *([Part.HEAD] if config.separate else [])]
    rows = torch.cat([matrices[part].float() for part in parts], dim=1)
    tokens, cuts = _cut(tokenizer, base, config.longest, training)
    mean, deviation = rows[tokens].mean(0), rows[tokens].std(0)
    weights = _start(config, mean, deviation, training.seed)
    learnt = [weights[n].requires_grad_() for n in weights if "scaler" not in n]
    network = Network(config, weights, None)
    source: Callable[[Tensor], Tensor] = rows.__getitem__
    wanted = (rows - mean) / deviation

    def error(places: Sequence[int], variant: Callable[[int], int]) -> Tensor:
        found = network.predict([cuts[p][variant(p)] for p in places], source)
        both = [found.input] if found.head is None else [found.input, found.head]
        predicted = (torch.cat(both, dim=1) - mean) / deviation
        return (predicted - wanted[tokens[list(places)]]).square().mean()

    draw = random.Random(training.seed)
    order = draw.sample(range(len(tokens)), len(tokens))
    hidden = order[: int(training.kept_out * len(tokens))]
    shown = order[len(hidden) :]
    optimizer = torch.optim.AdamW(
        learnt, training.learning_rate, betas=(0.9, 0.98), weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / training.warmup, 1 - s / training.steps),
    )
    best = Trained({}, float("inf"), 0)
    for step in tqdm.trange(1, training.steps + 1, desc="Hypernetwork", disable=not progress):
        batch = draw.sample(shown, min(training.batch_size, len(shown)))
        loss = error(batch, lambda p: draw.randrange(len(cuts[p])))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % training.check_every == 0 or step == training.steps:
            with torch.no_grad():
                found = float(error(hidden, lambda p: 0))
            if found < best.error:
                kept = {name: tensor.detach().clone() for name, tensor in weights.items()}
                best = Trained(kept, found, step)
    return best


def _cut(
    tokenizer: Mapping[str, Any], base: Vocabulary, longest: int, training: Training
) -> tuple[Tensor, list[list[list[int]]]]:
    """Tokens of several bytes that the base emits, and the ways in which each is cut."""
    vocab: dict[str, int] = tokenizer["model"]["vocab"]
    merges: Merges = merges_of(tokenizer)
    own = {data: i for data, i in base.representatives.items() if len(data) > 1}
    emitted = base.emitted(torch.tensor(list(own.values())).numpy())
    draw = random.Random(training.seed)
    tokens, cuts = [], []
    for (data, token), is_emitted in zip(own.items(), emitted, strict=True):
        if not is_emitted:
            continue
        ways, whole = [], spelled(data)
        for variant in range(training.variants):
            dropped = training.dropout if variant else 0.0

            def allowed(
                pair: tuple[str, str], whole: str = whole, dropped: float = dropped
            ) -> bool:
                return pair[0] + pair[1] != whole and draw.random() >= dropped

            pieces = merged(list(whole), merges, allowed)
            ways.append([vocab[piece] for piece in pieces][:longest])
        tokens.append(token)
        cuts.append(ways)
    return torch.tensor(tokens), cuts


def _start(
    config: HypernetworkConfig, mean: Tensor, deviation: Tensor, seed: int
) -> dict[str, Tensor]:
    """Random weights, with scalers that give every number of a row mean 0 and variance 1."""
    weights = random_weights(config, seed, std=config.hidden**-0.5)
    for name, tensor in weights.items():
        if name.endswith("bias"):
            tensor.zero_()
        elif name.endswith(("LayerNorm.weight", "ln.weight")):
            tensor.fill_(1)
    weights["in_scaler.w"], weights["in_scaler.b"] = (
        (1 / deviation)[None],
        (-mean / deviation)[None],
    )
    of_input, of_head = slice(None, config.width), slice(config.width, None)
    for name, part in (("scaler", of_input), ("out_scaler", of_head)):
        if f"{name}.w" in weights:
            weights[f"{name}.w"] = deviation[part].clone()[None]
            weights[f"{name}.b"] = mean[part].clone()[None]
    return weights
