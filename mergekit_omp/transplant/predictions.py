"""Predictions of hypernetworks: one task per model predicts the rows of all its vocabulary tensors.

Hypernetworks are opened and checked while planning, before the merge runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mergekit.common import ModelReference
from mergekit.graph import Task
from mergekit.io.tasks import LoadTensor
from torch import Tensor

from mergekit_omp.approximation.base import Cost, Part
from mergekit_omp.approximation.hypernetwork.opened import BaseFacts, OpenedHypernetwork
from mergekit_omp.approximation.hypernetwork.pieces import Segments
from mergekit_omp.approximation.zett import Zett
from mergekit_omp.errors import TransplantError
from mergekit_omp.models.headers import header, weights_are_read
from mergekit_omp.models.tensors import (
    PER_LAYER,
    VocabularyTensor,
    architecture_of,
    vocabulary_tensors,
)
from mergekit_omp.outside.counts import counted
from mergekit_omp.transplant.inputs import MergeInputs
from mergekit_omp.transplant.log import MergeLog
from mergekit_omp.transplant.row_plan import HOLDS_PLANS, vocabulary_first
from mergekit_omp.transplant.running import running

_EXAMPLES = 3

_Key = tuple[str | None, str | None]
"""A hypernetwork and its language."""


class PredictMissing(Task[dict[str, Tensor]]):
    """Predicts the missing rows of all vocabulary tensors of one model, from its own matrices."""

    model_config = HOLDS_PLANS

    entry: LoadTensor
    entry_axis: int
    head: LoadTensor | None
    head_axis: int
    hypernetwork: OpenedHypernetwork
    segments: Segments
    progress: bool
    log: MergeLog

    def arguments(self) -> dict[str, Task]:
        return {"entry": self.entry} | ({} if self.head is None else {"head": self.head})

    def uses_accelerator(self) -> bool:
        return True

    @property
    def cost(self) -> Cost:
        """Multiply-adds and memory, the hypernetwork's weights included."""
        return self.hypernetwork.cost(self.segments)

    def execute(
        self, entry: Tensor, head: Tensor | None = None, **_kwargs: Any
    ) -> dict[str, Tensor]:
        matrices = {Part.INPUT: vocabulary_first(entry, self.entry_axis)}
        if head is not None:
            matrices[Part.HEAD] = vocabulary_first(head, self.head_axis)
        with running(self.log), _one_sentence(Zett.name):
            predicted = self.hypernetwork.predict(self.segments, matrices, progress=self.progress)
        return {**predicted, "counts": self.segments.counts}


@dataclass(frozen=True, eq=False)
class PlannedPrediction:
    """The task of a prediction, and its entry in the record."""

    task: PredictMissing
    facts: dict[str, Any]


class Predictions:
    """Plans the predictions of one merge; hypernetworks are opened once each."""

    def __init__(self, inputs: MergeInputs, log: MergeLog):
        self._inputs = inputs
        self._log = log
        self._opened: dict[_Key, OpenedHypernetwork] = {}
        self._origins: dict[_Key, dict[str, Any]] = {}
        self._matrices: dict[ModelReference, dict[Part, VocabularyTensor]] = {}
        self._planned: dict[tuple[_Key, ModelReference, bytes], PlannedPrediction] = {}

    def plan(
        self, approximation: Zett, tensor: VocabularyTensor, rows: np.ndarray
    ) -> PlannedPrediction:
        """The prediction of the output ids `rows` for the model that `tensor` belongs to.

        Tensors of a model that lack the same rows share one prediction. Raises TransplantError
        where the hypernetwork cannot be read, or was trained for another vocabulary.
        """
        model = tensor.model
        if tensor.weight.name.endswith(PER_LAYER):
            raise TransplantError(
                f"merge_method {approximation.name!r}: {model} has rows for every layer "
                f"({tensor.weight.name}) beside its input embedding, and a hypernetwork predicts "
                "none of them. Use another method."
            )
        key = (approximation.hypernetwork, approximation.language)
        with _one_sentence(approximation.name):
            if (key, model, rows.tobytes()) not in self._planned:
                planned = self._plan(approximation, key, model, rows)
                self._planned[key, model, rows.tobytes()] = planned
        planned = self._planned[key, model, rows.tobytes()]
        if tensor.part == Part.HEAD_BIAS and not planned.task.hypernetwork.config.predicts_bias:
            self._inputs.warnings.add(
                f"The hypernetwork {approximation.hypernetwork} predicts no bias: new tokens get "
                f"the mean of {tensor.weight.name} of {model}."
            )
        return planned

    def _plan(
        self, approximation: Zett, key: _Key, model: ModelReference, rows: np.ndarray
    ) -> PlannedPrediction:
        opened = self._open(approximation, key)
        matrices = self._of(model)
        own = {part: matrices[part] for part in (Part.INPUT, Part.HEAD) if part in matrices}
        vocabulary = self._inputs.vocabularies.vocabulary(model)
        opened.check_base(
            BaseFacts(
                name=str(model),
                strings=vocabulary.strings,
                content=vocabulary.content,
                shapes={part: _shape(tensor) for part, tensor in own.items()},
            )
        )
        output = self._inputs.output
        segments = opened.segment([output.content[i] for i in rows])
        head = own.get(Part.HEAD)
        task = PredictMissing(
            entry=own[Part.INPUT].load_task(),
            entry_axis=own[Part.INPUT].weight.vocabulary_axis or 0,
            head=head.load_task() if head else None,
            head_axis=(head.weight.vocabulary_axis or 0) if head else 0,
            hypernetwork=opened,
            segments=segments,
            progress=not self._inputs.options.quiet,
            log=self._log,
        )
        facts: dict[str, Any] = {
            **self._origins[key],
            "predicted": len(segments.predicted),
            "truncated": len(segments.truncated),
            "unspellable": len(segments.unspellable),
        }
        for what, places in (
            ("truncated", segments.truncated),
            ("unspellable", segments.unspellable),
        ):
            if places:
                facts[f"{what}_examples"] = self._strings(rows, places)
        if opened.config.predicts_bias and Part.HEAD_BIAS not in matrices:
            facts["bias"] = "predicted, and left out since the model has no head bias"
        self._warn(opened, model, segments, rows)
        return PlannedPrediction(task, facts)

    def _open(self, approximation: Zett, key: _Key) -> OpenedHypernetwork:
        if key not in self._opened:
            whole = weights_are_read()
            opened = approximation.open(headers_only=not whole)
            origin: dict[str, Any] = {"source": opened.place.source, "base": opened.config.base}
            if whole:
                opened.check_weights()
                commit = opened.place.commit()
                if commit is not None:
                    origin["revision"] = commit
                else:
                    origin["sha256"] = opened.weights.sha256()
            self._opened[key], self._origins[key] = opened, origin
        return self._opened[key]

    def _of(self, model: ModelReference) -> dict[Part, VocabularyTensor]:
        """A model's vocabulary tensors by part, without the head where it is tied."""
        if model not in self._matrices:
            options = self._inputs.options
            found = vocabulary_tensors(model, architecture_of(model, options))
            if Part.INPUT not in found:
                found[Part.INPUT] = found.pop(Part.HEAD)
            head = found.get(Part.HEAD)
            config = model.config(trust_remote_code=options.trust_remote_code)
            if head is not None and self._inputs.is_tied(config, found[Part.INPUT], head):
                del found[Part.HEAD]
            self._matrices[model] = found
        return self._matrices[model]

    def _warn(
        self,
        opened: OpenedHypernetwork,
        model: ModelReference,
        segments: Segments,
        rows: np.ndarray,
    ) -> None:
        warnings, source = self._inputs.warnings, opened.place.source
        if not opened.is_for(model.model.path):
            warnings.add(
                f"The hypernetwork {source} was trained for {opened.config.base}, and is used for "
                f"{model}: that works as far as {model} is a fine-tune of it."
            )
        if segments.truncated:
            warnings.add(
                f"The hypernetwork {source} reads {opened.config.longest} pieces of a token at most: the "
                f"end of {counted(len(segments.truncated), 'token')} "
                f"({self._named(rows, segments.truncated)}) does not count."
            )
        if segments.unspellable:
            warnings.add(
                f"{counted(len(segments.unspellable), 'token')} "
                f"({self._named(rows, segments.unspellable)}) cannot be spelled in pieces that the "
                f"hypernetwork {source} has rows for: what they get is the mean of the model's rows."
            )

    def _strings(self, rows: np.ndarray, places: Sequence[int]) -> list[str]:
        """The strings of the first few of the output ids at `places` in `rows`."""
        return [self._inputs.output.strings[rows[i]] or "" for i in places[:_EXAMPLES]]

    def _named(self, rows: np.ndarray, places: Sequence[int]) -> str:
        more = ", ..." if len(places) > _EXAMPLES else ""
        return ", ".join(map(repr, self._strings(rows, places))) + more


def _shape(tensor: VocabularyTensor) -> tuple[int, int]:
    found = header(tensor.load_task())
    if found is None:
        raise TransplantError(f"{tensor.model} has no tensor {tensor.weight.name}.")
    count = found.shape[tensor.weight.vocabulary_axis or 0]
    return count, found.numel() // max(count, 1)


@contextlib.contextmanager
def _one_sentence(method: str) -> Iterator[None]:
    """Turn a ValueError of the hypernetwork into a TransplantError that names the method."""
    try:
        yield
    except ValueError as error:
        raise TransplantError(f"merge_method {method!r}: {error}.") from error
