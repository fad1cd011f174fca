"""The `tokenizer: tokens:` block of a config: tokens to add, and rows to take from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import transformers
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.tokenizer.config import ModelTokenEmbedding, TokenEmbeddingConfig, ZeroEmbedding

from mergekit_omp.errors import TransplantError
from mergekit_omp.models.tokenizers import Vocabularies
from mergekit_omp.vocabulary import Kind, Vocabulary


@dataclass(frozen=True)
class Override:
    """One entry of `tokenizer: tokens:`: which row is written to which output id."""

    output_id: int
    token: str
    model: ModelReference | None
    """None for a row of zeros."""
    rows: tuple[int, ...]
    """One row of the model, or several whose mean is written."""
    force: bool


def token_settings(config: MergeConfiguration) -> dict[str, TokenEmbeddingConfig]:
    """The `tokens:` block of a config, empty where there is none."""
    return dict((config.tokenizer.tokens if config.tokenizer else None) or {})


def add_configured_tokens(
    tokenizer: transformers.PreTrainedTokenizerBase,
    settings: dict[str, TokenEmbeddingConfig],
    vocabularies: Vocabularies,
) -> None:
    """Add the tokens that `tokens:` defines and the tokenizer lacks.

    A token that is an added token of its source model keeps the settings that it has there, so that
    a control token stays one. Any other is added as not normalised: mergekit adds it as normalised,
    and a SentencePiece tokenizer then finds it only at the start of a text.
    """
    held = tokenizer.get_vocab()
    for token, setting in settings.items():
        if token in held:
            continue
        if not token:
            raise TransplantError(
                "`tokens:` has an entry for the empty token ''. Name a token, or take it out."
            )
        source = setting.source
        if source is None:
            raise TransplantError(
                f"`tokens:` names {token!r}, which the output's tokenizer does not have, and "
                "gives no `source:` for it. Check the spelling, or say where its row comes from."
            )
        added = transformers.AddedToken(token, normalized=False)
        if not isinstance(source, ZeroEmbedding):
            model = source.model if isinstance(source, ModelTokenEmbedding) else source
            known = vocabularies.tokenizer(model).added_tokens_decoder.values()
            added = next((other for other in known if other.content == token), added)
        _refuse_misspelt(token, held, source)
        tokenizer.add_tokens(added, special_tokens=added.special)


def _refuse_misspelt(token: str, held: Mapping[str, int], source: object) -> None:
    """Refuse a token that differs from a known one only in the order or case of letters."""
    letters = sorted(token.strip().lower())
    for other in held:
        if len(other) > 3 and sorted(other.lower()) == letters:
            if isinstance(source, ModelTokenEmbedding) and source.token == token:
                return
            raise TransplantError(
                f"`tokens:` names {token!r}, which the output's tokenizer does not have. Did you "
                f"mean {other!r}?"
            )


def resolve_overrides(
    settings: dict[str, TokenEmbeddingConfig],
    output: Vocabulary,
    models: Sequence[ModelReference],
    vocabularies: Vocabularies,
) -> list[Override]:
    """The entries of `tokens:` that name a source, with the model and row that they refer to.

    Raises TransplantError for a source outside the merge and for a token or id it lacks.
    """
    ids = {string: i for i, string in enumerate(output.strings) if string is not None}
    overrides = []
    for token, setting in settings.items():
        source = setting.source
        if source is None:
            continue
        if isinstance(source, ZeroEmbedding):
            overrides.append(Override(ids[token], token, None, (), setting.force))
            continue
        model = source.model if isinstance(source, ModelTokenEmbedding) else source
        if model not in models:
            raise TransplantError(
                f"`tokens:` takes the row of {token!r} from {model}, which is not part of the "
                f"merge: its rows mean nothing in another model's space. Take it from "
                f"{', '.join(map(str, models))}, or leave the entry out to have it approximated."
            )
        vocabulary = vocabularies.vocabulary(model)
        wanted: str | int = token
        if isinstance(source, ModelTokenEmbedding):
            wanted = source.token if source.token is not None else source.token_id
        if isinstance(wanted, str):
            rows = _rows_of(wanted, vocabulary, vocabularies.tokenizer(model))
            if not rows:
                raise TransplantError(
                    f"`tokens:` takes the row of {token!r} from the token {wanted!r} of {model}, "
                    "which that model's tokenizer does not have."
                )
        else:
            rows = (wanted,)
        overrides.append(Override(ids[token], token, model, rows, setting.force))
    return overrides


def _rows_of(
    wanted: str, vocabulary: Vocabulary, tokenizer: transformers.PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """The row of a token, or the rows of a sequence such as `<|im_start|>user`; else empty.

    A token is named by its string, or by the text that it stands for. A sequence must contain a
    control token, so that a misspelt token is not taken for one.
    """
    if wanted in vocabulary.strings:
        return (vocabulary.strings.index(wanted),)
    if wanted.encode() in vocabulary.representatives:
        return (vocabulary.representatives[wanted.encode()],)
    control = (vocabulary.strings[i] for i in (vocabulary.kinds == Kind.CONTROL).nonzero()[0])
    if not any(string and string in wanted for string in control):
        return ()
    return tuple(tokenizer(wanted, add_special_tokens=False)["input_ids"])
