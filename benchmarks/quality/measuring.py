"""Merges, scores and hidden-token errors of one pair, each kept so that no run makes it again."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from benchmarks.quality import hidden, merging, scoring
from benchmarks.quality.cache import ROWS, digest, sources
from benchmarks.quality.corpus import Document
from benchmarks.quality.hidden import HiddenTokens, RowErrors
from benchmarks.quality.merging import merge
from benchmarks.quality.methods import PEER, Method
from benchmarks.quality.scoring import DocumentBits, score
from mergekit_omp.evaluation import scoring as token_scoring
from mergekit_omp.vocabulary import Vocabulary, align


@dataclass(frozen=True)
class Measured:
    """What one model, made by one method, is worth."""

    documents: list[DocumentBits]
    tensors: list[dict[str, Any]] = field(default_factory=list)
    """The merge's own record of its vocabulary tensors."""
    errors: dict[str, RowErrors] = field(default_factory=dict)
    """Of hidden tokens; empty where the method is not one of the plugin's."""


class PairBench:
    """One pair of models and the text that they are scored on."""

    def __init__(
        self,
        base: Path,
        donor: Path,
        documents: Sequence[Document],
        cache_dir: Path,
        device: str = "cpu",
        score: Callable[..., list[DocumentBits]] = score,
        hide: bool = True,
    ) -> None:
        """`score` is a function like `scoring.score`; `hide`: whether rows of hidden tokens are made
        and compared."""
        self.base, self.donor, self.documents = base, donor, documents
        self._texts = [document.text for document in documents]
        self._cache = cache_dir / "scores"
        self._device = device
        self._score, self._hide = score, hide
        self._lock = threading.Lock()

    def own(self, again: bool = False) -> Measured:
        """The base with its own tokenizer."""
        entry = self._entry(self.base.name, [])
        if again or not entry.exists():
            return self._kept(
                entry, Measured(self._score(self.base, self._texts, device=self._device))
            )
        return self._read(entry)

    def measure(self, method: Method, again: bool = False) -> Measured:
        """The base with the donor's tokenizer; from the cache unless it is to be made `again`."""
        made_by = () if method.approximation == PEER else (*ROWS, hidden)
        settings = [self.donor.name, asdict(method), sources(made_by)]
        entry = self._entry(f"{self.base.name}--{self.donor.name}", settings)
        if not again and entry.exists():
            return self._read(entry)
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "out"
            merge(method, self.base, self.donor, out, self._device)
            with self._lock:
                new = self._new
            documents = self._score(out, self._texts, new, self._device)
            record = out / "tokenizer_transplant.json"
            models = json.loads(record.read_text("utf-8"))["models"] if record.exists() else []
            tensors = [tensor for model in models for tensor in model["tensors"]]
            errors = {}
            if self._hide and method.approximation != PEER:
                # One at a time: what is hidden is hidden from the whole process.
                with self._lock:
                    errors = self._hidden.errors(method, Path(scratch) / "hidden")
        return self._kept(entry, Measured(documents, tensors, errors))

    @cached_property
    def _new(self) -> np.ndarray:
        """Which ids of the donor's tokenizer are tokens that the base lacks."""
        base, donor = (
            Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(path), path.name)
            for path in (self.base, self.donor)
        )
        return align(base, donor).source < 0

    @cached_property
    def _hidden(self) -> HiddenTokens:
        tokenizer = AutoTokenizer.from_pretrained(self.donor)
        encoded = tokenizer(self._texts, add_special_tokens=False)["input_ids"]
        return HiddenTokens(self.base, self.donor, Counter(i for ids in encoded for i in ids))

    def _entry(self, name: str, settings: list[Any]) -> Path:
        code = sources([merging, scoring, token_scoring, sys.modules[self._score.__module__]])
        key = digest([name, settings, digest(self._texts), self._device, code])
        return self._cache / f"{name}-{key}.json"

    def _kept(self, entry: Path, measured: Measured) -> Measured:
        entry.parent.mkdir(parents=True, exist_ok=True)
        unfinished = entry.with_suffix(f".{os.getpid()}-unfinished")
        unfinished.write_text(json.dumps(asdict(measured)), encoding="utf-8")
        unfinished.replace(entry)
        return measured

    def _read(self, entry: Path) -> Measured:
        kept = json.loads(entry.read_text(encoding="utf-8"))
        return Measured(
            documents=[DocumentBits(**document) for document in kept["documents"]],
            tensors=kept["tensors"],
            errors={name: RowErrors(**errors) for name, errors in kept["errors"].items()},
        )
