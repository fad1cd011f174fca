"""One healing from beginning to end: `heal`, which the command calls."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mergekit_omp.errors import TransplantError
from mergekit_omp.evaluation.bits_per_byte import text_score
from mergekit_omp.evaluation.comparison import Scored, compared, scored
from mergekit_omp.evaluation.evaluate import LONGEST_DEFAULT
from mergekit_omp.evaluation.models import (
    Loading,
    approximated_ids,
    load_model,
    load_tokenizer,
    longest_context,
    record_of,
)
from mergekit_omp.evaluation.scoring import score_tokens
from mergekit_omp.healing.adapting import Adapted, adapted, merged_body, trained_rows
from mergekit_omp.healing.checkpoints import Checkpoints, digest
from mergekit_omp.healing.faults import check_output, no_room
from mergekit_omp.healing.rows import Matrix, check_named, keys_of, matrices, new_rows
from mergekit_omp.healing.settings import Settings
from mergekit_omp.healing.telling import write_card
from mergekit_omp.healing.texts import Parted, occurring, windows
from mergekit_omp.healing.training import Trained, train
from mergekit_omp.healing.writing import copy_model, put_rows, put_tensors, size_of, weight_files
from mergekit_omp.models.tokenizers import read_vocabulary
from mergekit_omp.record.record import FILE_NAME, save_record
from mergekit_omp.transplant.staging import OutputDirectory

_PACKAGES = ("mergekit-omp", "peft", "accelerate", "torch", "transformers")


def heal(
    out: str,
    healed: str,
    text: Parted,
    settings: Settings,
    *,
    loading: Loading | None = None,
    restart: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train the rows that the merge in `out` approximated; the whole model is then in `healed`.

    `text` is what to train on, and what to measure by. Returns what `evaluate` does of both models
    on the held-out text, and under "healing" what the record gets. `say` is told in a line what is about to take time. TransplantError for whatever
    stands in the way, with nothing written but checkpoints.
    """
    loading = loading or Loading()
    record = record_of(out)
    if record is None:
        raise TransplantError(
            f"{out} has no {FILE_NAME}, which says what rows were approximated. Name the output of "
            "a merge with one of the plugin's methods."
        )
    check_output(out, healed)
    checkpoints = Checkpoints(healed)
    directory = OutputDirectory(healed)
    directory.open()
    try:
        with no_room(checkpoints.path):
            work = _Healing(out, record, text, settings, loading, progress, say)
            checkpoints.open(work.depends_on(), restart=restart)
            before, trained, rows, body = work.train(checkpoints)
            stage = Path(directory.stage)
            _check_room(stage, Path(out), record)
            copy_model(Path(out), record, stage)
            put_rows(stage, rows)
            put_tensors(stage, body)
            after = work.scored(load_model(str(stage), loading), healed)
            result = compared([before, after], text.held_out, None)
            entry = work.entry(trained, rows, sorted(body), result)
            write_card(Path(out), stage, record, entry)
            record = {**record, "healing": [*record.get("healing", []), entry]}
            save_record(str(stage), record, None)
            directory.publish()
    finally:
        directory.close()
        checkpoints.close()
    checkpoints.remove()
    return {**work.facts(), **result, "base": None, "healing": entry}


class _Healing:
    """A model to be healed, its text, and what is done with both."""

    def __init__(
        self,
        out: str,
        record: dict[str, Any],
        text: Parted,
        settings: Settings,
        loading: Loading,
        progress: bool,
        say: Callable[[str], None],
    ) -> None:
        self.out, self.record, self.text, self.settings = out, record, text, settings
        self.loading, self.progress, self.say = loading, progress, say
        longest = longest_context(out, loading) or LONGEST_DEFAULT
        if settings.context > longest:
            raise TransplantError(
                f"--context is {settings.context}, but {out} has {longest} positions. Write a number "
                f"from 1 to {longest}."
            )
        self._reads = min(LONGEST_DEFAULT, longest)
        self._new = new_rows(Path(out), record)
        if not any(len(ids) for ids in self._new.values()):
            raise TransplantError(
                f"{out} has nothing to heal: its merge copied every row, and approximated none."
            )
        self._files = weight_files(Path(out))
        check_named(record, set(self._files), out)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(out, loading)
        self._vocabulary = read_vocabulary(self.tokenizer, out)
        self._windows = windows(self.tokenizer, text.train, settings.context, settings.batch_size)

    def depends_on(self) -> dict[str, Any]:
        """What a checkpoint belongs to, in the words of the command line."""
        files = sorted({*self._files.values(), Path(self.out) / FILE_NAME})
        states = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
        return {
            "OUT": digest([os.path.realpath(self.out), *states]),
            "--text": digest([*self.text.train, *self.text.held_out]),
            **{f"--{key.replace('_', '-')}": value for key, value in vars(self.settings).items()},
            "--device": self.loading.torch_device().type,
            "--dtype": self.loading.dtype,
        }

    def train(
        self, checkpoints: Checkpoints
    ) -> tuple[Scored, Trained, list[tuple[Matrix, torch.Tensor]], dict[str, torch.Tensor]]:
        """The scores before, how training went, the best rows, and what adapters made of the body."""
        model = load_model(self.out, self.loading)
        seen = occurring(self._windows)
        whole = matrices(
            model,
            set(self._files),
            self._new,
            self.out,
            trust_remote_code=self.loading.trust_remote_code,
        )
        self._all = whole
        # A token that is not in the text has nothing to learn from but that it is not there.
        chosen = [
            dataclasses.replace(matrix, ids=np.intersect1d(matrix.ids, seen)) for matrix in whole
        ]
        if not any(len(matrix.ids) for matrix in chosen):
            raise TransplantError(
                f"None of the approximated tokens of {self.out} occurs in the text. Name text of "
                "the kind that its new tokenizer is for."
            )
        self.say(self._told(chosen))
        before = self.scored(model, self.out)
        unhealed = text_score(before.scores, self.text.held_out).bits_per_byte
        made = adapted(model, chosen, self.out, self._windows[:1, :-1], self.settings.lora)
        if last := checkpoints.last():
            self.say(f"Going on from step {last[0]}, in {checkpoints.path}.")
        trained = train(
            made,
            self._windows,
            self.settings,
            checkpoints,
            lambda: self._score(made),
            device=self.loading.torch_device(),
            progress=self.progress,
        )
        reached = dict(trained.bits_per_byte)[trained.best_step]
        if not reached < unhealed:
            checkpoints.remove()
            raise TransplantError(
                f"Training does not lower the loss of the held-out text: {unhealed:.4f} bits per "
                f"byte before, {reached:.4f} after {trained.best_step} steps. Nothing is written. Name "
                "more text, or write a smaller --learning-rate."
            )
        return before, trained, trained_rows(made), self._body(made, model)

    def _body(self, made: Adapted, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """The tensors that adapters changed, under the names of the weight files."""
        changed = merged_body(made)
        if not changed:
            return {}
        trust = self.loading.trust_remote_code
        keys = keys_of(model, set(self._files), trust_remote_code=trust)
        if missing := [name for name in changed if name not in keys]:
            raise TransplantError(
                f"{self.out} has no tensor {missing[0]} of its own in its weights, into which an "
                "adapter could be merged. Heal it without --lora."
            )
        return {key: weight for name, weight in changed.items() for key in keys[name]}

    def scored(self, model: PreTrainedModel, name: str) -> Scored:
        """A model's scores on the held-out text."""
        documents = self.text.held_out
        scores = score_tokens(
            model,
            self.tokenizer,
            documents,
            context=self._reads,
            progress=self.progress,
            label=os.path.basename(os.path.normpath(name))[-24:],
        )
        if not all(np.isfinite(score.bits).all() for score in scores):
            raise TransplantError(
                f"{name} gives probabilities that are not numbers. Try --dtype float32, or check "
                "its weights."
            )
        ids = approximated_ids(self.record, self.out)
        return scored(name, self._vocabulary, scores, documents, ids)

    def _score(self, made: Adapted) -> float:
        scores = score_tokens(
            made.model.get_base_model(), self.tokenizer, self.text.held_out, context=self._reads
        )
        return text_score(scores, self.text.held_out).bits_per_byte

    def _told(self, chosen: Sequence[Matrix]) -> str:
        """How many rows are trained, and on how much text."""
        counts = {
            len(matrix.ids): f"{len(matrix.ids)} of {len(whole.ids)}"
            for matrix, whole in zip(chosen, self._all, strict=True)
        }
        batch = self.settings.batch_size * self.settings.context
        return (
            f"{' and '.join(counts.values())} approximated tokens occur in the text: their rows are "
            f"trained on {self._windows.numel()} tokens, in at most {self.settings.steps} steps of "
            f"{batch}."
        )

    def entry(
        self,
        trained: Trained,
        rows: Sequence[tuple[Matrix, torch.Tensor]],
        body: list[str],
        result: dict[str, Any],
    ) -> dict[str, Any]:
        """What the record says of this healing."""
        before, after = result["models"]
        (difference,) = result["differences"]
        return {
            "rows": [
                {
                    "tensor": matrix.tensors[0],
                    "part": matrix.part,
                    "trained": len(matrix.ids),
                    "approximated": len(whole.ids),
                }
                for (matrix, _), whole in zip(rows, self._all, strict=True)
            ],
            "body": body,
            "objective": "next token",
            "settings": vars(self.settings),
            "text": {
                "train": _sizes(self.text.train),
                "tokens": self._windows.numel(),
                "held_out": _sizes(self.text.held_out),
            },
            "steps": trained.steps,
            "best_step": trained.best_step,
            "bits_per_byte": {
                "before": before["bits_per_byte"],
                "before_interval": before["interval"],
                "after": after["bits_per_byte"],
                "after_interval": after["interval"],
                "won": difference["bits_per_byte"],
                "won_interval": difference["interval"],
                "evaluations": [list(pair) for pair in trained.bits_per_byte],
            },
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        }

    def facts(self) -> dict[str, Any]:
        """The text and how it was read, as `evaluate` tells them."""
        return {
            "format": 1,
            "text": _sizes(self.text.held_out),
            "settings": {"context": self._reads},
        }


def _sizes(documents: Sequence[str]) -> dict[str, int]:
    return {
        "documents": len(documents),
        "bytes": sum(len(document.encode("utf-8")) for document in documents),
    }


def _check_room(stage: Path, out: Path, record: dict[str, Any]) -> None:
    needed, free = size_of(out, record), shutil.disk_usage(stage).free
    if needed > free:
        raise TransplantError(
            f"There is no room for the healed model: it takes {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free. Make room: the same command then goes on from its last "
            "checkpoint."
        )
