"""Measures candidates one after the other, on one body: in this process, or in a worker of many."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from mergekit_omp.comparison.body import Body
from mergekit_omp.comparison.candidates import Candidate, LeftOut
from mergekit_omp.comparison.memory import PeakMemory
from mergekit_omp.errors import TransplantError
from mergekit_omp.evaluation.comparison import Scored, scored
from mergekit_omp.evaluation.evaluate import ReadAs, ReadingOptions, free_memory, scores_of
from mergekit_omp.evaluation.models import Loading, load_model
from mergekit_omp.evaluation.scoring import TokenScores
from mergekit_omp.models.readings import Readings, sharing
from mergekit_omp.models.tokenizers import Vocabularies
from mergekit_omp.plugin.in_memory import plan_in_memory
from mergekit_omp.transplant.config import models_in_order


@dataclass(frozen=True)
class Conditions:
    """What is the same for all candidates: the text and how it is read, and how merges run."""

    documents: tuple[str, ...]
    context: int
    reading: ReadingOptions
    loading: Loading
    options: MergeOptions


@dataclass(frozen=True, eq=False)
class Measured:
    """What one candidate came to, or the base with its own tokenizer."""

    scored: Scored
    read_as: ReadAs
    rows: int
    """How many rows its vocabulary tensors have."""
    seconds: float | None = None
    """What it took to make the rows of the vocabulary tensors; None for the base."""
    peak_bytes: int | None = None
    """The most memory that this took on top of the body."""
    warnings: tuple[str, ...] = ()


class Bench:
    """Measures candidates of one config. The body is merged for the first, and kept for all."""

    def __init__(self, conditions: Conditions):
        self._conditions = conditions
        self._body: Body | None = None
        self._readings = Readings()
        # Bars of loading would hide those of what takes longer.
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()

    def measure(self, candidate: Candidate) -> Measured | LeftOut:
        """Its rows made by the merge's own tasks, and the text read; LeftOut where it is refused."""
        try:
            with sharing(self._readings):
                return self._measured(candidate)
        except TransplantError as error:
            return LeftOut(candidate.name, error.message)

    def _measured(self, candidate: Candidate) -> Measured:
        given = self._conditions
        merge = plan_in_memory(candidate.config, given.options)
        if self._body is None:
            self._body = Body(merge, given.loading)
        with PeakMemory(torch.device(given.options.device or "cpu")) as peak:
            rows = merge.vocabulary_tensors()
        model = self._body.with_rows(merge, rows, candidate.name)
        del rows
        scores = self._scores(model, merge.tokenizer, candidate.name)
        del model
        free_memory()
        return Measured(
            scored(candidate.name, merge.vocabulary, scores, given.documents, merge.approximated),
            read_as=ReadAs.by(given.loading),
            rows=merge.rows,
            seconds=peak.seconds,
            peak_bytes=peak.bytes,
            warnings=tuple(merge.warnings),
        )

    def measure_base(self, candidate: Candidate) -> Measured:
        """The base of the merge with its own tokenizer. The body is let go for it.

        Raises TransplantError where it cannot be read.
        """
        given = self._conditions
        self._body = None
        free_memory()
        config = candidate.config
        base = config.base_model or models_in_order(config)[0]
        LoaderCache().setup(options=given.options)
        # Where mergekit has found it: in a folder, in a hub's cache, merged with its adapter.
        folder = LoaderCache().get(base).index.base_path
        # Not from there: mergekit puts no tokenizer beside a merged adapter.
        with sharing(self._readings):
            vocabularies = Vocabularies(given.options)
        tokenizer, vocabulary = vocabularies.tokenizer(base), vocabularies.vocabulary(base)
        model = load_model(folder, given.loading)
        scores = self._scores(model, tokenizer, str(base))
        rows = model.get_input_embeddings().weight.shape[0]
        del model
        free_memory()
        return Measured(
            scored(str(base), vocabulary, scores, given.documents, None),
            read_as=ReadAs.by(given.loading),
            rows=rows,
        )

    def _scores(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str
    ) -> list[TokenScores]:
        given = self._conditions
        try:
            return scores_of(model, tokenizer, name, given.documents, given.context, given.reading)
        except ValueError as error:
            # What a text, a context or weights do not allow.
            raise TransplantError(f"{str(error).rstrip('.')}.") from error
