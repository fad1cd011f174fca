"""The small models that swap tokenizers with one another, trained once and kept.

They differ on purpose: how they spell (byte-level or SentencePiece-style), digits in threes or
one by one, vocabulary and hidden size, tied or untied, and what they read.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import transformers
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from benchmarks.quality import tokenizers
from benchmarks.quality.cache import digest
from benchmarks.quality.processes import in_processes
from benchmarks.quality.tokenizers import make_tokenizer
from mergekit_omp.demo import training
from mergekit_omp.demo.completed import completed
from mergekit_omp.demo.training import Architecture, Training, train_model


@dataclass(frozen=True)
class ModelSpec:
    """A small model: how it spells, how large it is, what it reads and for how long.

    `shares` says how much of each kind of training text it reads.
    """

    name: str
    style: str
    vocab_size: int
    architecture: Architecture
    training: Training
    shares: Mapping[str, float] = field(default_factory=dict)


def _training(seed: int) -> Training:
    return Training(steps=700, batch_size=8, context=128, learning_rate=5e-3, seed=seed)


MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        "X",
        "byte-level, digits in threes",
        4096,
        Architecture(hidden_size=192, layers=3, heads=4, intermediate_size=512),
        _training(1),
        {"prose": 0.6, "code": 0.6, "arithmetic": 0.3},
    ),
    ModelSpec(
        "Y",
        "byte-level, single digits",
        6144,
        Architecture(hidden_size=256, layers=2, heads=4, intermediate_size=640, tied=True),
        _training(2),
        {"prose": 1.0, "code": 0.3, "arithmetic": 0.5},
    ),
    ModelSpec(
        "Z",
        "sentencepiece",
        5120,
        Architecture(hidden_size=160, layers=3, heads=4, intermediate_size=448),
        _training(3),
        {"prose": 0.8, "code": 0.6, "arithmetic": 0.2},
    ),
    ModelSpec(
        "V",
        "byte-level, digits in threes",
        8192,
        Architecture(hidden_size=128, layers=3, heads=4, intermediate_size=384),
        _training(4),
        {"prose": 0.2, "code": 1.0, "arithmetic": 0.1},
    ),
)


def make_models(
    specs: Sequence[ModelSpec],
    texts: Sequence[Sequence[str]],
    cache_dir: Path,
    *,
    processes: int = 2,
    progress: bool = False,
    device: str = "cpu",
) -> dict[str, Path]:
    """A directory for each model, from the cache where it is in it.

    Every model is trained by a process of its own on one thread, on its own entry of `texts`.
    """
    entries = {
        spec.name: cache_dir / "models" / f"{spec.name}-{digest(_depends_on(spec, read))}"
        for spec, read in zip(specs, texts, strict=True)
    }
    todo = [pair for pair in zip(specs, texts, strict=True) if not entries[pair[0].name].exists()]
    if todo:
        calls = (
            (entries[spec.name], spec, read, i if progress else None, device)
            for i, (spec, read) in enumerate(todo)
        )
        in_processes(_make, calls, processes)
    return entries


def _depends_on(spec: ModelSpec, texts: Sequence[str]) -> list[object]:
    return [
        asdict(spec),
        digest(list(texts)),
        {
            name: importlib.metadata.version(name)
            for name in ("torch", "transformers", "tokenizers")
        },
        [inspect.getsource(module) for module in (tokenizers, training)],
    ]


def _make(
    entry: Path, spec: ModelSpec, texts: Sequence[str], line: int | None, device: str
) -> None:
    """Runs in a process of its own: trains a tokenizer and a model, and puts them in the cache."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = make_tokenizer(spec.style, texts, spec.vocab_size)
    # Half as long again without: CPUs and GPUs that are new multiply bfloat16 faster.
    with torch.autocast(torch.device(device).type, torch.bfloat16, cache_enabled=False):
        if device == "cpu":
            model = train_model(
                spec.architecture,
                spec.training,
                tokenizer,
                texts,
                progress_line=line,
                label=spec.name,
            )
        else:
            model = _train_on(device, spec, tokenizer, texts, line)
    with completed(entry) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _train_on(
    device: str,
    spec: ModelSpec,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    line: int | None,
) -> LlamaForCausalLM:
    """`train_model` with model and text on another device: its parts, since it knows of one."""
    untrained = replace(spec.training, steps=0)
    model = train_model(spec.architecture, untrained, tokenizer, texts).to(device)
    stream = training.token_stream(tokenizer, texts).to(device)
    training._fit(model, spec.training, stream, progress_line=line, label=spec.name)
    return model.eval().cpu()
