"""Hypernetworks in the published format for any base: its vocabulary converted, weights at random."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mergekit_omp.approximation.hypernetwork.config import HypernetworkConfig, read_config
from mergekit_omp.approximation.hypernetwork.network import expected_tensors
from mergekit_omp.vocabulary import Kind, Vocabulary
from mergekit_omp.vocabulary.content import SPELLING, spelled

UNREAD = "model.embeddings.word_embeddings.weight"
Merges = Mapping[tuple[str, str], int]
"""The rank of each merge."""
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}


def converted(base: Vocabulary) -> dict[str, Any]:
    """The `tokenizer.json` of a hypernetwork for this base.

    The base's ids stay, their strings in the byte-level alphabet; bytes that it lacks and
    intermediate merges follow. A token whose bytes another one stands for keeps its string.
    """
    own = base.representatives
    vocab: dict[str, int] = {}
    for i, string in enumerate(base.strings):
        if string is None:
            continue
        data = base.content[i]
        plain = base.kinds[i] == Kind.ORDINARY and data is not None and own.get(data) == i
        vocab[spelled(data or b"") if plain else string] = i
    size = base.size
    for character in SPELLING.values():
        size += character not in vocab
        vocab.setdefault(character, size - 1)
    merges: dict[tuple[str, str], int] = {}
    for data, _ in sorted(own.items(), key=lambda item: item[1]):
        pieces = merged(list(spelled(data)), merges)
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = len(merges)
            size += pieces[0] + pieces[1] not in vocab
            vocab.setdefault(pieces[0] + pieces[1], size - 1)
            pieces = merged(pieces, merges)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": _BYTE_LEVEL,
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocab, "merges": [list(pair) for pair in merges]},
    }


def merges_of(tokenizer: Mapping[str, Any]) -> Merges:
    """The merges of a tokenizer.json, each with its rank."""
    return {(one, other): rank for rank, (one, other) in enumerate(tokenizer["model"]["merges"])}


def merged(
    pieces: list[str], merges: Merges, allowed: Callable[[tuple[str, str]], bool] | None = None
) -> list[str]:
    """Byte-pair encoding: the earliest merge first, among those that are allowed."""
    refused: set[int] = set()
    while True:
        ranks = [merges.get(pair, -1) for pair in itertools.pairwise(pieces)]
        left = [rank for rank in ranks if rank >= 0 and rank not in refused]
        if not left:
            return pieces
        at = ranks.index(min(left))
        pair = (pieces[at], pieces[at + 1])
        if allowed is not None and not allowed(pair):
            refused.add(min(left))
            continue
        pieces = [*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2 :]]


def settings(
    base: Vocabulary, tokenizer: Mapping[str, Any], *, width: int, tied: bool, **more: Any
) -> dict[str, Any]:
    """A `config.json`, with the published values where a parameter has one."""
    return {
        "model_type": "zett_hypernetwork",
        "hn_model_type": "roberta",
        "hn_surface_maxlen": 7,
        "hn_n_layers": 2,
        "hn_hidden_size": 32,
        "hn_intermediate_size": 48,
        "hn_num_attention_heads": 4,
        "hn_rescale_embeddings": True,
        "hn_embed_using_source_embeddings": True,
        "hn_predict_bias": True,
        "hn_n_extra_tokens": max(tokenizer["model"]["vocab"].values()) + 1 - base.size,
        "original_vocab_size": base.size,
        "n_embd": width,
        "separate_out_embeddings": not tied,
        **more,
    }


def random_weights(
    config: HypernetworkConfig, seed: int = 0, std: float = 0.1
) -> dict[str, Tensor]:
    """All tensors: linear maps at random, norms and scalers as good as none."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, expected in expected_tensors(config).items():
        random = torch.randn(expected.shape, generator=generator) * std
        is_scale = name.endswith((".w", "LayerNorm.weight", "ln.weight"))
        found[name] = 1 + random if is_scale else random
    found[UNREAD] = torch.zeros((3, config.hidden))
    return found


def save(
    folder: Path,
    config: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    weights: Mapping[str, Tensor],
) -> Path:
    """Writes the files of a published hypernetwork."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    (folder / "tokenizer.json").write_text(
        json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8"
    )
    save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def save_random(
    folder: Path, base: Vocabulary, *, width: int, tied: bool, seed: int = 0, **more: Any
) -> Path:
    """A random hypernetwork for a base; `more` are keys of its config."""
    tokenizer = converted(base)
    config = settings(base, tokenizer, width=width, tied=tied, **more)
    weights = random_weights(read_config(config, "config.json"), seed)
    return save(folder, config, tokenizer, weights)
