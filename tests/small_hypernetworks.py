"""Hypernetworks for tests: three that the original was run with, and random ones for any base.

`oracles/zett/` holds random hypernetworks over tokenizers that were trained for the purpose, and
what the original's own code predicts with them, the pieces that it cuts tokens into included.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from small_models import save_model
from torch import Tensor
from transformers import AutoTokenizer

from benchmarks.hypernetwork.making import save_random
from mergekit_omp.vocabulary import Vocabulary

ORACLES = Path(__file__).parent / "oracles" / "zett"
NAMES = ("untied", "tied_language", "single_head")
TARGET = ORACLES / "target_tokenizer"
WIDTH = 32
ENTRY, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def published(folder: Path, name: str) -> Path:
    """One of the three hypernetworks in the layout of a published one."""
    path = folder / f"hypernetwork-{name}"
    if not path.exists():
        path.mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            shutil.copyfile(ORACLES / name / file, path / file)
        shutil.copyfile(ORACLES / "hypernet_tokenizer" / "tokenizer.json", path / "tokenizer.json")
    return path


def source_rows() -> dict[str, Tensor]:
    """The base's rows that the original was given: `embed` and `head`."""
    return load_file(ORACLES / "source_embeddings.safetensors")


def expected(name: str) -> dict[str, Tensor]:
    """What the original predicts for every token of the target, by id."""
    return load_file(ORACLES / name / "expected.safetensors")


def base_model(folder: Path, *, tied: bool, name: str = "base", **settings: Any) -> Path:
    """A model with those rows."""
    path = folder / f"{name}-{'tied' if tied else 'untied'}"
    if not path.exists():
        tokenizer = AutoTokenizer.from_pretrained(ORACLES / "base_tokenizer")
        save_model(path, tokenizer, hidden=WIDTH, layers=1, tied=tied, **settings)
        rows, file = source_rows(), path / "model.safetensors"
        held = load_file(file) | {ENTRY: rows["embed"]}
        if not tied:
            held[HEAD] = rows["head"]
        save_file(held, file, metadata={"format": "pt"})
    return path


def changed(
    source: Path,
    folder: Path,
    *,
    config: dict[str, Any] | None = None,
    weights: Callable[[dict[str, Tensor]], Any] | None = None,
) -> Path:
    """A copy of a hypernetwork with keys of its config (None: taken away) or tensors changed."""
    shutil.copytree(source, folder)
    found = json.loads((folder / "config.json").read_text()) | (config or {})
    kept = {key: value for key, value in found.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    if weights is not None:
        held = load_file(folder / "model.safetensors")
        weights(held)
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def random_hypernetwork(folder: Path, base: Path, *, tied: bool, **more: Any) -> Path:
    """A random hypernetwork for a saved model."""
    vocabulary = Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(base), str(base))
    width = json.loads((base / "config.json").read_text())["hidden_size"]
    return save_random(folder, vocabulary, width=width, tied=tied, **more)
