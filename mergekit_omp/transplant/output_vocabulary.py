"""The output's tokenizer, what its ids stand for, and how many rows it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import transformers
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions
from mergekit.tokenizer.config import TokenEmbeddingConfig

from mergekit_omp.approximation.base import Part
from mergekit_omp.errors import TransplantError
from mergekit_omp.models.tokenizer_files import check_it_can_be_saved
from mergekit_omp.models.tokenizers import Vocabularies, load_tokenizer, read_vocabulary
from mergekit_omp.models.union import MANY, Union, check_roles, union_tokenizer
from mergekit_omp.transplant.config import TokenizerSource, match_donor_rows
from mergekit_omp.transplant.inputs import MergeInputs
from mergekit_omp.transplant.token_settings import add_configured_tokens
from mergekit_omp.vocabulary import Vocabulary, digit_mismatch

MOST_PADDING = 65_536
"""`pad_to_multiple_of` may be this large even where the vocabulary is smaller."""


@dataclass(frozen=True, eq=False)
class OutputVocabulary:
    """The output's tokenizer, and what its ids stand for."""

    tokenizer: transformers.PreTrainedTokenizerBase
    vocabulary: Vocabulary
    gained: tuple[str, ...]
    """Ordinary tokens of other models that a union added to the base's tokenizer."""
    warnings: tuple[str, ...]


def output_vocabulary(
    source: TokenizerSource,
    base: ModelReference,
    models: Sequence[ModelReference],
    settings: dict[str, TokenEmbeddingConfig],
    vocabularies: Vocabularies,
    options: MergeOptions,
) -> OutputVocabulary:
    """The tokenizer of `source`, with the tokens that `settings` (the `tokens:` block) add.

    Raises TransplantError for a tokenizer that cannot be loaded, read or saved.
    """
    union = None
    if source == "union":
        # The base's tokens come first, as in mergekit's unions.
        union = _union(base, list(dict.fromkeys([base, *models])), vocabularies, options)
        tokenizer = union.tokenizer
    else:
        model = base if source == "base" else source
        # A tokenizer to which nothing is added is the model's own, loaded once for both.
        tokenizer = load_tokenizer(model, options) if settings else vocabularies.tokenizer(model)
    add_configured_tokens(tokenizer, settings, vocabularies)
    vocabulary = _read(tokenizer, source, models, vocabularies)
    check_it_can_be_saved(tokenizer, str(source))
    gained = () if union is None else union.gained
    own = [vocabularies.vocabulary(model) for model in models]
    warnings = (
        *_of_many(gained, base),
        *_of_gaps(vocabulary),
        *_of_digits(own, vocabulary),
    )
    return OutputVocabulary(tokenizer, vocabulary, gained, warnings)


def output_rows(
    config: MergeConfiguration, source: TokenizerSource, method: str, inputs: MergeInputs
) -> int:
    """How many rows the output's vocabulary tensors get: the tokenizer's ids and any padding.

    `method` is the name of the approximation, for the donor that `match_donor_rows` reads. Raises
    TransplantError where the config's settings for it contradict each other.
    """
    size = inputs.output.size
    multiple = config.tokenizer.pad_to_multiple_of if config.tokenizer else None
    if not match_donor_rows(config):
        if multiple is not None and multiple < 1:
            raise TransplantError(f"`pad_to_multiple_of` must be at least 1; found {multiple}.")
        if multiple is not None and multiple > max(MOST_PADDING, size):
            raise TransplantError(
                f"`pad_to_multiple_of: {multiple}` would give the output's {size} "
                "rows more padding than there are rows. Write a small power of two, such as "
                "64 or 128."
            )
        return size + (-size % multiple if multiple else 0)
    if not isinstance(source, ModelReference):
        raise TransplantError(
            f"`match_donor_rows` needs one donor, but the tokenizer source is {source}. "
            "Name the model that the output is to draft for as `tokenizer_source:`."
        )
    if multiple:
        raise TransplantError(
            "`match_donor_rows` and `pad_to_multiple_of` both say how many rows the output "
            "has. Keep one of them."
        )
    donor = inputs.donor(source, method)
    rows = inputs.donor_rows(donor.tensor(Part.HEAD)).count
    if rows < size:
        raise TransplantError(
            f"`match_donor_rows`: the donor {source} has {rows} rows, but the output's "
            f"tokenizer ids up to {size - 1}. Leave `match_donor_rows` out."
        )
    return rows


def _union(
    base: ModelReference,
    models: list[ModelReference],
    vocabularies: Vocabularies,
    options: MergeOptions,
) -> Union:
    check_roles({model: vocabularies.vocabulary(model) for model in models})
    return union_tokenizer(base, {m: vocabularies.tokenizer(m) for m in models}, options)


def _read(
    tokenizer: transformers.PreTrainedTokenizerBase,
    source: TokenizerSource,
    models: Sequence[ModelReference],
    vocabularies: Vocabularies,
) -> Vocabulary:
    for model in [*models, source]:
        if isinstance(model, ModelReference) and vocabularies.holds(model, tokenizer):
            return vocabularies.vocabulary(model)
    return read_vocabulary(tokenizer, f"the output ({source})")


def _of_many(gained: tuple[str, ...], base: ModelReference) -> list[str]:
    if len(gained) <= MANY:
        return []
    return [
        f"The union turns {len(gained)} ordinary tokens of other models into added tokens, which "
        "are matched in a text before everything else: words that contain one are cut there, and "
        "tokens spelt in another tokenizer's way are never produced. To give all models one "
        f"model's tokenizer instead, write `tokenizer_source: {base}`."
    ]


def _of_gaps(output: Vocabulary) -> list[str]:
    gaps = output.size - output.tokens
    if not gaps:
        return []
    return [
        f"The output's tokenizer leaves {gaps} ids below {output.size} without a token; their "
        "rows are the mean of the others."
    ]


def _of_digits(own: Sequence[Vocabulary], output: Vocabulary) -> list[str]:
    distinct = {vocabulary.fingerprint: vocabulary for vocabulary in reversed(own)}.values()
    found = [digit_mismatch(vocabulary, output) for vocabulary in distinct]
    return [warning for warning in found if warning is not None]
