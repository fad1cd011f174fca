"""What a method makes of tokens whose rows are known: shared tokens, hidden from the merge.

The base's vocabulary is read as if it lacked some of the shared tokens, so the merge approximates
them like any missing token; its rows are then compared with the base's own. For methods that read
text, a hidden token is cut into the parts that the base's tokenizer merges it from.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.quality.merging import config
from benchmarks.quality.methods import Method
from mergekit_omp.models import tokenizers as model_tokenizers
from mergekit_omp.vocabulary import Kind, Vocabulary, align
from mergekit_omp.vocabulary.segmentation import Segmenter


@dataclass(frozen=True)
class RowErrors:
    """How far approximated rows are from true ones; means over tokens, weighted or not."""

    cosine: float
    norm_ratio: float
    squared_error: float
    """Sum of squared differences over the sum of squared true rows."""


def hidden_tokens(
    base: Vocabulary, output: Vocabulary, mergeable: Bool[np.ndarray, " base_tokens"], share: float
) -> Int64[np.ndarray, " hidden"]:
    """Ids of the output of a seeded sample of anchors, of those that the base can spell out."""
    alignment = align(base, output)
    candidates = np.flatnonzero(alignment.anchors)
    candidates = candidates[mergeable[alignment.source[candidates]]]
    draw = np.random.default_rng(0)
    count = max(1, round(share * len(candidates)))
    return np.sort(draw.choice(candidates, count, replace=False))


class PartsForHidden(Segmenter):
    """The segmentation of a tokenizer that lacks some tokens: their parts stand for them."""

    def __init__(
        self, whole: Segmenter, parts: dict[int, tuple[int, int]], hidden: set[int]
    ) -> None:
        self._whole, self._parts, self._hidden = whole, parts, hidden
        self.emitted = whole.emitted.copy()
        self.emitted[sorted(hidden)] = False

    def segment(self, pieces: Sequence[bytes]) -> list[list[int]]:
        return [[i for j in ids for i in self._spelled(j)] for ids in self._whole.segment(pieces)]

    def _spelled(self, token: int) -> list[int]:
        if token not in self._hidden:
            return [token]
        return [i for part in self._parts[token] for i in self._spelled(part)]


def merges(tokenizer: Any) -> dict[int, tuple[int, int]]:
    """The two parts that a BPE tokenizer first merges each token from."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    found: dict[int, tuple[int, int]] = {}
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        found.setdefault(
            model["vocab"][left + right], (model["vocab"][left], model["vocab"][right])
        )
    return found


class HiddenTokens:
    """Shared tokens of one pair that merges are not to know, and their true rows."""

    def __init__(self, base: Path, donor: Path, frequency: dict[int, int], share: float = 0.15):
        """`frequency` counts tokens of the output in text, for errors weighted by use."""
        tokenizer = AutoTokenizer.from_pretrained(base)
        self.base, self.donor = base, donor
        self._whole = Vocabulary.from_tokenizer(tokenizer, str(base))
        output = Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(donor), str(donor))
        parts = merges(tokenizer)
        mergeable = np.isin(np.arange(self._whole.size), list(parts))
        self._ids = hidden_tokens(self._whole, output, mergeable, share)
        self._rows = align(self._whole, output).source[self._ids]
        hidden = set(self._rows.tolist())
        kinds = self._whole.kinds.copy()
        kinds[self._rows] = Kind.GAP
        content = [None if i in hidden else text for i, text in enumerate(self._whole.content)]
        self._without = dataclasses.replace(
            self._whole,
            kinds=kinds,
            content=content,
            segmenter=PartsForHidden(self._whole.segmenter, parts, hidden),
        )
        self._weights = torch.tensor([float(frequency.get(i, 0)) for i in self._ids.tolist()])
        self._true = {part: rows[self._rows] for part, rows in matrices(base).items()}

    def errors(self, method: Method, folder: Path) -> dict[str, RowErrors]:
        """Errors of the hidden tokens' rows: by `input` and `head`, and `... by use`."""
        settings = config(method, self.base, self.donor)
        with self._hiding(), _quiet():
            run_merge(
                MergeConfiguration.model_validate(settings), str(folder), MergeOptions(quiet=True)
            )
        found = {}
        for part, rows in matrices(folder).items():
            true, ours = self._true[part], rows[self._ids]
            found[part] = row_errors(ours, true, torch.ones(len(true)))
            found[f"{part} by use"] = row_errors(ours, true, self._weights)
        return found

    @contextmanager
    def _hiding(self) -> Iterator[None]:
        read = model_tokenizers.read_vocabulary

        def reading(tokenizer: Any, name: str) -> Vocabulary:
            return self._without if name == str(self.base) else read(tokenizer, name)

        with mock.patch.object(model_tokenizers, "read_vocabulary", reading):
            yield


def matrices(path: Path) -> dict[str, Float[Tensor, "tokens dim"]]:
    """A model's input embedding and its head, where that is another matrix."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    found = {"input": model.get_input_embeddings().weight.detach()}
    if not model.config.tie_word_embeddings:
        found["head"] = model.get_output_embeddings().weight.detach()
    return found


def row_errors(
    ours: Float[Tensor, "tokens dim"],
    true: Float[Tensor, "tokens dim"],
    weights: Float[Tensor, " tokens"],
) -> RowErrors:
    """Means over tokens, each of its weight."""
    weights = weights.double() / weights.double().sum()
    ours, true = ours.double(), true.double()
    cosine = torch.nn.functional.cosine_similarity(ours, true)
    ratio = ours.norm(dim=1) / true.norm(dim=1)
    squared = (ours - true).square().sum(1)
    return RowErrors(
        cosine=float(weights @ cosine),
        norm_ratio=float(weights @ ratio),
        squared_error=float(weights @ squared / (weights @ true.square().sum(1))),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
