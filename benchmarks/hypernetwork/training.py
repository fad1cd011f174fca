"""Trains a hypernetwork on a base, by the paper's objective with vocabularies of our own making.

At every step some tokens of the base are hidden: both of their rows are predicted from the pieces
that they would be cut into if they were no tokens, by byte-pair encoding with dropout (Provilkov et
al. 2020). And some pairs of neighbours in the text become one new token, as in a larger vocabulary.
The frozen base reads text with the predicted rows; its loss on the next token, with the error of
the hidden tokens' rows beside it, trains the hypernetwork. Some tokens are never hidden while it
learns: how the base does with these hidden is reported.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from benchmarks.hypernetwork.making import Merges, merged, merges_of, random_weights
from mergekit_omp.approximation.hypernetwork.config import HypernetworkConfig
from mergekit_omp.approximation.hypernetwork.network import Network
from mergekit_omp.demo.descent import descend
from mergekit_omp.vocabulary import Vocabulary
from mergekit_omp.vocabulary.content import spelled

_PADDING = -100


@dataclass(frozen=True)
class Training:
    """How long, and how."""

    steps: int = 400
    batch_size: int = 8
    context: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 30
    hidden_share: float = 0.5
    """Of the tokens in a batch."""
    hidden_others: int = 200
    """Tokens beside these, which the base must not predict."""
    rows_weight: float = 0.3
    """Of the error of the rows, beside the loss on the next token."""
    variants: int = 6
    """Ways in which a token is cut; the first is the one without chance."""
    dropout: float = 0.15
    """The share of merges that are left out in the others."""
    pairs: int = 4000
    """The most frequent pairs of neighbours, which may become new tokens."""
    pairs_share: float = 0.5
    """Of those in a batch, how many do."""
    kept_out: float = 0.1
    """The share of tokens that are not learnt from."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Trained:
    """The weights, and the base's loss (nats a token) with the tokens hidden that were kept out."""

    weights: dict[str, Tensor]
    loss: float
    with_mean_rows: float
    """The same with the mean row in their place."""
    with_own_rows: float


def train(
    config: HypernetworkConfig,
    tokenizer: Mapping[str, Any],
    base: Vocabulary,
    model: LlamaForCausalLM,
    stream: Int64[Tensor, " tokens"],
    training: Training,
    *,
    progress: bool = False,
) -> Trained:
    """Trains on text in the base's tokens; the base, whose head is its own, stays as it is."""
    model.requires_grad_(False)
    entry, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    rows = torch.cat([entry, head], dim=1)
    cuts = _cuts(tokenizer, base, config.longest, training)
    known = torch.tensor(sorted(cuts))
    mean, deviation = rows[known].mean(0), rows[known].std(0)
    weights = _start(config, mean, deviation, training.seed)
    learnt = [w.requires_grad_() for name, w in weights.items() if "scaler" not in name]
    network = Network(config, weights, None)
    draw = random.Random(training.seed)
    hidden = set(draw.sample(sorted(cuts), int(training.kept_out * len(cuts))))
    shown = sorted(set(cuts) - hidden)

    def predicted(ways: Sequence[Sequence[int]]) -> Tensor:
        found = network.predict(ways, lambda ids: rows[ids])
        assert found.head is not None
        return torch.cat([found.input, found.head], dim=1)

    def loss(batch: Tensor, tokens: Sequence[int], new: Tensor) -> Tensor:
        """`new` are the rows of `tokens`, then those of ids past the base's."""
        both = rows.index_copy(0, torch.tensor(tokens, dtype=torch.int64), new[: len(tokens)])
        own, out = torch.cat([both, new[len(tokens) :]]).split(config.width, dim=1)
        inputs, targets = batch[:, :-1].clamp_min(0), batch[:, 1:]
        read = model.model(inputs_embeds=own[inputs], use_cache=False).last_hidden_state
        return functional.cross_entropy(
            (read @ out.T).flatten(0, 1), targets.flatten(), ignore_index=_PADDING
        )

    windows = stream[: len(stream) // (training.context + 1) * (training.context + 1)]
    windows = windows.view(-1, training.context + 1)
    order = draw.sample(range(len(windows)), len(windows))
    checked = windows[order[: 4 * training.batch_size]]
    order = order[4 * training.batch_size :]
    out_of_sight = sorted(hidden)
    with torch.no_grad():
        own = float(loss(checked, [], rows[:0]))
        mean_rows = rows.mean(0).expand(len(out_of_sight), -1)
        blind = float(loss(checked, out_of_sight, mean_rows))
    pairs = _pairs(stream, base, training.pairs)
    merges: Merges = merges_of(tokenizer)
    vocab: dict[str, int] = tokenizer["model"]["vocab"]
    optimizer = torch.optim.AdamW(
        learnt, training.learning_rate, betas=(0.9, 0.98), weight_decay=training.weight_decay
    )

    def step_loss() -> Tensor:
        batch = windows[draw.sample(order, training.batch_size)]
        present = sorted(set(batch.flatten().tolist()).intersection(shown))
        chosen = set(draw.sample(present, int(training.hidden_share * len(present))))
        chosen |= set(draw.sample(shown, min(training.hidden_others, len(shown))))
        tokens = sorted(chosen)
        batch, joined = _join(batch, pairs, training.pairs_share, len(rows), draw)
        whole = [spelled((base.content[a] or b"") + (base.content[b] or b"")) for a, b in joined]
        ways = [[vocab[p] for p in merged(list(w), merges)][: config.longest] for w in whole]
        new = predicted([draw.choice(cuts[t]) for t in tokens] + ways)
        error = ((new[: len(tokens)] - rows[tokens]) / deviation).square().mean()
        return loss(batch, tokens, new) + training.rows_weight * error

    descend(
        learnt,
        optimizer,
        step_loss,
        steps=training.steps,
        warmup=training.warmup,
        decay=lambda step: 1 - step / training.steps,
        label="Hypernetwork",
        progress_line=0 if progress else None,
    )
    with torch.no_grad():
        found = float(loss(checked, out_of_sight, predicted([cuts[t][0] for t in out_of_sight])))
    kept = {name: tensor.detach().clone() for name, tensor in weights.items()}
    return Trained(kept, found, blind, own)


def _pairs(stream: Int64[Tensor, " tokens"], base: Vocabulary, count: int) -> set[tuple[int, int]]:
    """The most frequent pairs of neighbours that are no token of the base when joined."""
    tokens = stream.tolist()
    found = Counter(itertools.pairwise(tokens))
    kept: set[tuple[int, int]] = set()
    for (a, b), _ in found.most_common():
        one, other = base.content[a], base.content[b]
        # A vocabulary cuts a text at the space in front of a word.
        if one is None or other is None or other.startswith(b" "):
            continue
        if one + other not in base.representatives:
            kept.add((a, b))
        if len(kept) == count:
            break
    return kept


def _join(
    batch: Int64[Tensor, "batch window"],
    pairs: set[tuple[int, int]],
    share: float,
    first: int,
    draw: random.Random,
) -> tuple[Int64[Tensor, "batch shorter"], list[tuple[int, int]]]:
    """The batch with some pairs as one token, whose ids begin with `first`; and these pairs."""
    rows = batch.tolist()
    present = sorted({p for row in rows for p in itertools.pairwise(row) if p in pairs})
    joined = draw.sample(present, int(share * len(present)))
    ids = {pair: first + i for i, pair in enumerate(joined)}
    shorter = []
    for row in rows:
        kept: list[int] = []
        at = 0
        while at < len(row):
            pair = (row[at], row[at + 1]) if at + 1 < len(row) else None
            kept.append(ids.get(pair, row[at]) if pair else row[at])
            at += 2 if pair in ids else 1
        shorter.append(kept)
    longest = max(map(len, shorter))
    padded = [row + [_PADDING] * (longest - len(row)) for row in shorter]
    return torch.tensor(padded), joined


def _cuts(
    tokenizer: Mapping[str, Any], base: Vocabulary, longest: int, training: Training
) -> dict[int, list[list[int]]]:
    """The ways in which each token of several bytes is cut, of those that the base emits."""
    vocab: dict[str, int] = tokenizer["model"]["vocab"]
    merges: Merges = merges_of(tokenizer)
    own = {data: i for data, i in base.representatives.items() if len(data) > 1}
    emitted = base.emitted(torch.tensor(list(own.values())).numpy())
    draw = random.Random(training.seed)
    found: dict[int, list[list[int]]] = {}
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
        found[token] = ways
    return found


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
        weights[f"{name}.w"] = deviation[part].clone()[None]
        weights[f"{name}.b"] = mean[part].clone()[None]
    return weights
