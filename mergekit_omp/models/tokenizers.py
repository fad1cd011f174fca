"""The tokenizers of a merge's models and what their token ids stand for, each loaded once."""

from __future__ import annotations

import transformers
from mergekit.common import ModelReference
from mergekit.options import MergeOptions

from mergekit_omp.errors import TransplantError
from mergekit_omp.models.readings import readings
from mergekit_omp.models.tokenizer_files import open_tokenizer
from mergekit_omp.vocabulary import Vocabulary


class Vocabularies:
    """A cache of tokenizers, and of the vocabularies read from them, by model."""

    def __init__(self, options: MergeOptions):
        self._options = options
        held = readings()
        self._tokenizers, self._vocabularies = held.tokenizers, held.vocabularies

    def tokenizer(self, model: ModelReference) -> transformers.PreTrainedTokenizerBase:
        """A model's tokenizer. TransplantError, naming the model, where it cannot be loaded."""
        if model not in self._tokenizers:
            self._tokenizers[model] = load_tokenizer(model, self._options)
        return self._tokenizers[model]

    def vocabulary(self, model: ModelReference) -> Vocabulary:
        """What a model's token ids stand for."""
        if model not in self._vocabularies:
            self._vocabularies[model] = read_vocabulary(self.tokenizer(model), str(model))
        return self._vocabularies[model]

    def holds(self, model: ModelReference, tokenizer: transformers.PreTrainedTokenizerBase) -> bool:
        """Whether `tokenizer` is the object that was loaded for `model`."""
        return self._tokenizers.get(model) is tokenizer


def load_tokenizer(
    model: ModelReference, options: MergeOptions
) -> transformers.PreTrainedTokenizerBase:
    """A new tokenizer object for a model. TransplantError where it cannot be loaded."""
    return open_tokenizer(
        model.model.path,
        revision=model.model.revision,
        trust_remote_code=options.trust_remote_code,
    )


def read_vocabulary(tokenizer: transformers.PreTrainedTokenizerBase, name: str) -> Vocabulary:
    """`Vocabulary.from_tokenizer`, whose ValueErrors become TransplantErrors."""
    try:
        return Vocabulary.from_tokenizer(tokenizer, name)
    except ValueError as error:
        raise TransplantError(str(error)) from error
