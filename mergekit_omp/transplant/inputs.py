"""What planning reads of the models of a merge: vocabularies, tensors and donors, each once."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
from mergekit.common import ModelReference
from mergekit.options import MergeOptions
from transformers import PretrainedConfig

from mergekit_omp.errors import TransplantError
from mergekit_omp.models.donors import Donor, load_donor
from mergekit_omp.models.numbers import check_vocabulary_tensor
from mergekit_omp.models.readings import readings
from mergekit_omp.models.tensors import StoredRows, VocabularyTensor, read_rows, says_tied
from mergekit_omp.models.tokenizers import Vocabularies
from mergekit_omp.models.union import claim_gained
from mergekit_omp.outside.counts import counted
from mergekit_omp.vocabulary import Alignment, Kind, Vocabulary, align

LOG = logging.getLogger(__name__)


class Warnings:
    """Warnings that come up while planning: each is logged once, and kept for the record.

    With `logged` False they are only kept: a dry run prints them itself.
    """

    def __init__(self, *, logged: bool = True) -> None:
        self.messages: list[str] = []
        self._logged = logged

    def add(self, message: str) -> None:
        if message not in self.messages:
            self.messages.append(message)
            if self._logged:
                LOG.warning("%s", message)

    def add_all(self, messages: Iterable[str]) -> None:
        for message in messages:
            self.add(message)


class MergeInputs:
    """A cache of alignments, facts on tensors, and donors, for the planning of one merge.

    `output` is the output's vocabulary, and `gained` the ordinary tokens that a union added to it.
    """

    def __init__(
        self,
        output: Vocabulary,
        gained: tuple[str, ...],
        vocabularies: Vocabularies,
        options: MergeOptions,
        warnings: Warnings,
    ):
        self.output = output
        self.vocabularies = vocabularies
        self.options = options
        self.warnings = warnings
        self.gained = gained
        held = readings()
        self._rows, self._alignments = held.rows, held.alignments
        self._donors: dict[ModelReference, Donor] = {}

    def alignment(self, vocabulary: Vocabulary, rows: int | None = None) -> Alignment:
        """Which row of a model with this vocabulary, and `rows` rows, belongs to each output id."""
        key = (vocabulary.fingerprint, self.output.fingerprint, self.gained, rows)
        if key not in self._alignments:
            alignment = align(vocabulary, self.output, rows=rows)
            if self.gained:
                alignment = claim_gained(alignment, self.gained, rows)
            self._alignments[key] = alignment
        return self._alignments[key]

    def donor_ids(self, donor: Vocabulary, rows: int | None = None) -> np.ndarray:
        """For each output id the donor's id, or -1 where it has no such token or no row for it."""
        if donor.fingerprint == self.output.fingerprint:
            ids = np.where(self.output.kinds != Kind.GAP, np.arange(self.output.size), -1)
        else:
            ids = self.alignment(donor, rows).source.copy()
        if rows is not None:
            ids[ids >= rows] = -1
        return ids

    def donor(self, model: ModelReference, method: str) -> Donor:
        """`model` as a donor for `method`. TransplantError where its weights cannot be read."""
        if model not in self._donors:
            vocabulary = self.vocabularies.vocabulary(model)
            self._donors[model] = load_donor(model, vocabulary, method, self.options)
            for warning in self._donors[model].warnings:
                self.warnings.add(warning)
        return self._donors[model]

    def rows(self, tensor: VocabularyTensor) -> StoredRows:
        """What is known of a tensor, read at most once.

        TransplantError where it is missing or damaged.
        """
        if tensor not in self._rows:
            check_vocabulary_tensor(tensor)
            try:
                self._rows[tensor] = read_rows(tensor)
            except LookupError as error:
                raise TransplantError(
                    f"{tensor.model} has no tensor {tensor.weight.name}."
                ) from error
        return self._rows[tensor]

    def is_tied(
        self, config: PretrainedConfig, entry: VocabularyTensor, head: VocabularyTensor
    ) -> bool:
        """Whether a model with both tensors stored is tied: its config says so and they are equal.

        Where only headers were read, the config alone decides.
        """
        return says_tied(config) and self.rows(entry).digest == self.rows(head).digest

    def model_rows(self, tensor: VocabularyTensor) -> StoredRows:
        """`rows` for a tensor of a merged model. TransplantError where no row is finite."""
        rows = self.rows(tensor)
        if rows.count and not rows.finite.any():
            raise TransplantError(
                f"Every row of {tensor.weight.name} of {tensor.model} holds numbers that are not "
                "finite. Copy or download the model again, whole, or name another."
            )
        return rows

    def donor_rows(self, tensor: VocabularyTensor) -> StoredRows:
        """`rows` for a donor's tensor. TransplantError where no row is usable."""
        rows = self.rows(tensor)
        if not rows.usable.any():
            raise TransplantError(
                f"Every row of {tensor.weight.name} of the donor {tensor.model} is zero or not "
                "finite: nothing can be learnt from it. Check that the donor's weights are whole."
            )
        past = self.vocabularies.vocabulary(tensor.model).size - rows.count
        if past > 0:
            self.warnings.add(
                f"The tokenizer of {tensor.model} has ids up to {rows.count + past - 1}, but its "
                f"{tensor.weight.name} only {rows.count} rows: {counted(past, 'id')} without one."
            )
        return rows
