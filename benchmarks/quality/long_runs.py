"""The ranking of the methods as training goes on: the pairs again, with models of several lengths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.quality.cache import digest
from benchmarks.quality.corpus import KINDS, Corpus
from benchmarks.quality.installed_text import CODE_EVERY, PACKAGES, installed_text
from benchmarks.quality.long_training import make_long_model
from benchmarks.quality.models import ModelSpec


def make_long_models(
    specs: Sequence[ModelSpec], texts: Corpus, characters: int, tokens: int, cache_dir: Path
) -> dict[str, Path]:
    """A directory for each model, trained on so many tokens of `texts` and of installed packages."""
    held_out = [document.text for document in texts.held_out]
    file = cache_dir / "texts" / f"{digest([held_out, characters, PACKAGES, CODE_EVERY])}.json"
    if not file.exists():
        found = installed_text(held_out, characters)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(found), encoding="utf-8")
        unfinished.replace(file)
    more: Mapping[str, list[str]] = json.loads(file.read_text(encoding="utf-8"))
    every = replace(
        texts, train={kind: (*texts.train[kind], *more.get(kind, ())) for kind in KINDS}
    )
    return {
        spec.name: make_long_model(spec, every.mixed(spec.shares), tokens, cache_dir)
        for spec in specs
    }
