"""Makes the demo's models, and keeps them for the next time.

A made model is a directory that `AutoModelForCausalLM` and `AutoTokenizer` load. Its name in the
cache holds a digest of everything it depends on, and it gets that name when it is complete.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers

from mergekit_omp.demo import corpus, descent, tokenizers, training
from mergekit_omp.demo.completed import completed
from mergekit_omp.demo.corpus import CorpusSpec, Document, TextKind, standard_library_corpus
from mergekit_omp.demo.tokenizers import TokenizerStyle, train_tokenizer
from mergekit_omp.demo.training import Architecture, Training, train_model


@dataclass(frozen=True)
class ModelSpec:
    """A small model: how it spells, how large it is, how long it is trained."""

    name: str
    style: TokenizerStyle
    vocab_size: int
    architecture: Architecture
    training: Training


@dataclass(frozen=True)
class DemoSpec:
    """What the demo trains, and on what."""

    corpus: CorpusSpec
    base: ModelSpec
    donor: ModelSpec


@dataclass(frozen=True)
class DemoModels:
    """The demo's two models, and text that neither has seen."""

    base: Path
    donor: Path
    held_out: tuple[Document, ...]


DEMO = DemoSpec(
    corpus=CorpusSpec(),
    base=ModelSpec(
        name="sentencepiece-base",
        style=TokenizerStyle.SENTENCEPIECE,
        vocab_size=3584,
        architecture=Architecture(hidden_size=128, layers=3, heads=4, intermediate_size=352),
        training=Training(steps=800, batch_size=8, context=128, learning_rate=5e-3, seed=1),
    ),
    donor=ModelSpec(
        name="byte-level-donor",
        style=TokenizerStyle.BYTE_LEVEL,
        vocab_size=4608,
        architecture=Architecture(hidden_size=144, layers=2, heads=4, intermediate_size=384),
        training=Training(steps=800, batch_size=8, context=128, learning_rate=5e-3, seed=2),
    ),
)
"""A SentencePiece-style base that is to get a byte-level donor's tokenizer."""


def make_model(
    spec: ModelSpec,
    texts: Sequence[str],
    out_dir: Path | str,
    *,
    progress_line: int | None = None,
) -> Path:
    """Trains a tokenizer and a model on `texts` and saves both in `out_dir`, which it returns.

    `progress_line` is the line of the terminal for a progress bar, or None for no bar.
    """
    out_dir = Path(out_dir)
    tokenizer = train_tokenizer(spec.style, texts, spec.vocab_size)
    model = train_model(
        spec.architecture,
        spec.training,
        tokenizer,
        texts,
        progress_line=progress_line,
        label=spec.name,
    )
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    return out_dir


def default_cache_dir() -> Path:
    """`mergekit-omp/demo` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "mergekit-omp" / "demo"


def make_models(
    cache_dir: Path,
    spec: DemoSpec = DEMO,
    *,
    fresh: bool = False,
    processes: int = 2,
    progress: bool = False,
    announce: Callable[[str], None] = lambda line: None,
) -> DemoModels:
    """The models of `spec`, from the cache where they are in it.

    Every model is trained by a process of its own on one thread: models then train side by side,
    and the number of cores does not change their weights.

    Args:
        cache_dir: where made models are kept; it need not exist.
        spec: what to make.
        fresh: make them again even if they are in the cache.
        processes: how many models to train at once.
        progress: whether to show progress bars on a terminal.
        announce: is told in one line what is about to take time.
    """
    settings = asdict(spec.corpus)
    held_out = _entry(cache_dir, "held-out", [settings])
    entries = {
        model: _entry(cache_dir, model.name, [settings, asdict(model)])
        for model in (spec.base, spec.donor)
    }
    todo = [model for model in entries if fresh or not entries[model].exists()]
    if todo or not held_out.exists():
        announce("Reading text from the standard library.")
        text = standard_library_corpus(spec.corpus)
        with completed(held_out) as folder:
            documents = [asdict(document) for document in text.held_out]
            (folder / "documents.json").write_text(json.dumps(documents), encoding="utf-8")
    if todo:
        for model in todo:
            announce(f"Training {model.name}: {_summary(model)}.")
        texts = [document.text for document in text.train]
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            jobs = [
                pool.submit(_make_entry, entries[model], model, texts, i if progress else None)
                for i, model in enumerate(todo)
            ]
            for job in jobs:
                job.result()
    loaded = json.loads((held_out / "documents.json").read_text(encoding="utf-8"))
    return DemoModels(
        base=entries[spec.base],
        donor=entries[spec.donor],
        held_out=tuple(
            Document(name=d["name"], kind=TextKind(d["kind"]), text=d["text"]) for d in loaded
        ),
    )


def _make_entry(entry: Path, spec: ModelSpec, texts: Sequence[str], line: int | None) -> None:
    """Runs in a process of its own: makes a model on one thread and puts it in the cache."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    with completed(entry) as folder:
        make_model(spec, texts, folder, progress_line=line)


def _summary(spec: ModelSpec) -> str:
    size = spec.architecture
    return (
        f"{spec.vocab_size} tokens, {size.layers} layers of {size.hidden_size}, "
        f"{spec.training.steps} steps"
    )


def _entry(cache_dir: Path, name: str, settings: list[dict[str, Any]]) -> Path:
    """Where the cache keeps what `settings` make with the code and libraries at hand."""
    depends_on = {
        "settings": settings,
        "python": platform.python_version(),
        "libraries": {
            library: importlib.metadata.version(library)
            for library in ("torch", "transformers", "tokenizers")
        },
        "code": [inspect.getsource(module) for module in (corpus, tokenizers, training, descent)],
    }
    digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    return cache_dir / f"{name}-{digest[:16]}"
