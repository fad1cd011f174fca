"""Trains small models for hours, in a run that can be stopped and taken up again.

The learning rate is constant after a warm-up and falls to 0 in the last fifth. So models of several
lengths share one run (Hu et al. 2024, MiniCPM): each branches off where its last fifth begins.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from benchmarks.quality import installed_text, tokenizers
from benchmarks.quality.cache import digest
from benchmarks.quality.corpus import KINDS, Corpus
from benchmarks.quality.installed_text import CODE_EVERY, PACKAGES
from benchmarks.quality.models import ModelSpec
from benchmarks.quality.processes import in_processes
from benchmarks.quality.tokenizers import make_tokenizer
from mergekit_omp.demo.completed import completed
from mergekit_omp.demo.training import Training, token_stream, train_model

BATCH, CONTEXT, WARMUP = 16, 128, 100
DECAY = 0.2
"""Which part of all steps the learning rate falls in."""
SAVE_EVERY = 60.0
"""Seconds."""


def make_long_models(
    specs: Sequence[ModelSpec],
    texts: Corpus,
    characters: int,
    tokens: Mapping[str, int],
    cache_dir: Path,
    *,
    processes: int = 1,
) -> dict[str, Path]:
    """A directory for each model, trained on as many tokens of `texts` and of installed packages
    as `tokens` says of its name.

    Every model is trained by a process of its own on one thread, so many at once as `processes`
    says.
    """
    held_out = [document.text for document in texts.held_out]
    file = cache_dir / "texts" / f"{digest([held_out, characters, PACKAGES, CODE_EVERY])}.json"
    if not file.exists():
        found = installed_text.installed_text(held_out, characters)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(found), encoding="utf-8")
        unfinished.replace(file)
    more: Mapping[str, list[str]] = json.loads(file.read_text(encoding="utf-8"))
    every = replace(
        texts, train={kind: (*texts.train[kind], *more.get(kind, ())) for kind in KINDS}
    )
    read = {spec.name: every.mixed(spec.shares) for spec in specs}
    entries = {
        spec.name: _entry(spec, read[spec.name], tokens[spec.name], cache_dir) for spec in specs
    }
    todo = [spec for spec in specs if not entries[spec.name].exists()]
    if todo:
        calls = ((spec, read[spec.name], tokens[spec.name], cache_dir) for spec in todo)
        in_processes(make_long_model, calls, processes)
    return entries


def make_long_model(spec: ModelSpec, texts: Sequence[str], tokens: int, cache_dir: Path) -> Path:
    """The directory of a model that has seen so many tokens, made where it is not there yet."""
    entry = _entry(spec, texts, tokens, cache_dir)
    if entry.exists():
        return entry
    torch.set_num_threads(1)
    spec = replace(spec, training=_training(spec, tokens))
    folder = cache_dir / "runs" / entry.name.removesuffix(f"-{tokens}")
    tokenizer = _tokenizer(folder / "tokenizer", spec, texts)
    stream = _stream(folder / "stream.pt", tokenizer, texts)
    steps = spec.training.steps
    branch = steps - round(DECAY * steps)
    training = _Run(spec, tokenizer, stream, texts)
    trunk = folder / "trunk"
    own = folder / f"{tokens}"
    if not training.resume(own, steps):
        training.resume(trunk, branch)
        training.advance(trunk, branch, None)
        training.save(trunk)
    training.advance(own, steps, (branch, steps))
    with completed(entry) as unfinished:
        training.model.eval().save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    return entry


def _entry(spec: ModelSpec, texts: Sequence[str], tokens: int, cache_dir: Path) -> Path:
    """Where in the cache the model is; all lengths of one run have one name up to the last part."""
    run = replace(spec, training=_training(spec, 0))
    made_of = [asdict(run), digest(list(texts)), _versions(), _sources()]
    return cache_dir / "models" / f"{spec.name}-long-{digest(made_of)}-{tokens}"


def _training(spec: ModelSpec, tokens: int) -> Training:
    return replace(
        spec.training,
        steps=tokens // (BATCH * CONTEXT),
        batch_size=BATCH,
        context=CONTEXT,
        warmup=WARMUP,
    )


def _versions() -> dict[str, str]:
    return {n: importlib.metadata.version(n) for n in ("torch", "transformers", "tokenizers")}


def _sources() -> list[str]:
    return [inspect.getsource(module) for module in (tokenizers, installed_text)]


def _tokenizer(folder: Path, spec: ModelSpec, texts: Sequence[str]) -> PreTrainedTokenizerBase:
    if not folder.exists():
        with completed(folder) as unfinished:
            make_tokenizer(spec.style, texts, spec.vocab_size).save_pretrained(unfinished)
    return AutoTokenizer.from_pretrained(folder)


def _stream(
    file: Path, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Int64[Tensor, " tokens"]:
    if not file.exists():
        _write(token_stream(tokenizer, texts), file)
    return torch.load(file)


def _write(what: Any, file: Path) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}-unfinished")
    torch.save(what, unfinished)
    unfinished.replace(file)


class _Run:
    """A model, its optimizer, and how many steps it has taken."""

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer: PreTrainedTokenizerBase,
        stream: Int64[Tensor, " tokens"],
        texts: Sequence[str],
    ) -> None:
        self.spec, self._stream = spec, stream
        untrained = replace(spec.training, steps=0)
        self.model: LlamaForCausalLM = train_model(spec.architecture, untrained, tokenizer, texts)
        parameters = list(self.model.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim >= 2]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(
            groups,
            lr=spec.training.learning_rate,
            weight_decay=spec.training.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.step = 0

    def resume(self, folder: Path, most: int) -> bool:
        """Takes up the last state in `folder` of at most so many steps; False if there is none."""
        saved = sorted(int(file.stem) for file in folder.glob("*.pt") if int(file.stem) <= most)
        if not saved:
            return False
        state = torch.load(folder / f"{saved[-1]}.pt")
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = saved[-1]
        return True

    def save(self, folder: Path) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict()}
        _write(state, folder / f"{self.step}.pt")

    def advance(self, folder: Path, until: int, decay: tuple[int, int] | None) -> None:
        """Steps to `until`, saved on the way; the rate falls from 1 to 0 between the steps of
        `decay`."""
        self.model.train()
        saved, on_the_way = time.monotonic(), None
        while self.step < until:
            rate = min((self.step + 1) / WARMUP, 1.0)
            if decay is not None:
                rate *= (decay[1] - self.step) / (decay[1] - decay[0])
            loss = self._descend(rate)
            if self.step % 200 == 0:
                print(f"{self.spec.name} {self.step}/{until}: {loss:.3f}", file=sys.stderr)
            if time.monotonic() - saved > SAVE_EVERY:
                self.save(folder)
                if on_the_way is not None:
                    (folder / f"{on_the_way}.pt").unlink()
                saved, on_the_way = time.monotonic(), self.step

    def _descend(self, rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self.spec.training.learning_rate * rate
        batch = self._batch()
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            logits = self.model(batch[:, :-1], use_cache=False).logits
            loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def _batch(self) -> Int64[Tensor, "batch window"]:
        """Windows of the stream, each once in a pass; which ones follows from the step alone."""
        window = CONTEXT + 1
        batches = (len(self._stream) - window) // window // BATCH
        turn, place = divmod(self.step, batches)
        draw = torch.Generator().manual_seed(self.spec.training.seed + 1000 * turn)
        offset = int(torch.randint(window, (), generator=draw))
        order = torch.randperm(batches * BATCH, generator=draw)
        rows = order[place * BATCH : (place + 1) * BATCH]
        starts = offset + rows * window
        return self._stream[starts[:, None] + torch.arange(window)]
