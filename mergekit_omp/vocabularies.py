"""The vocabularies of a merge: every model's, and the one that the output will have."""

from __future__ import annotations

import os
from dataclasses import dataclass

import transformers
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions
from mergekit.tokenizer.config import ModelTokenEmbedding, TokenEmbeddingConfig, ZeroEmbedding

from mergekit_omp.errors import TransplantError
from mergekit_omp.vocabulary import Vocabulary


class Vocabularies:
    """Tokenizers of models, each loaded once."""

    def __init__(self, options: MergeOptions):
        self._options = options
        self._tokenizers: dict[ModelReference, transformers.PreTrainedTokenizerBase] = {}
        self._vocabularies: dict[ModelReference, Vocabulary] = {}

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
        """Whether `tokenizer` is the very one that was loaded for `model`."""
        return self._tokenizers.get(model) is tokenizer


def load_tokenizer(
    model: ModelReference, options: MergeOptions
) -> transformers.PreTrainedTokenizerBase:
    """A fresh copy of a model's tokenizer. TransplantError where there is none."""
    path = model.model.path
    local = os.path.exists(path)
    if not local and (path[:1] in "/.~" or path.count("/") > 1):
        raise TransplantError(
            f"The tokenizer of {path} is needed, but there is no such directory. Check the path "
            "in `tokenizer_source:` and in the list of models."
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(
            path,
            revision=model.model.revision,
            trust_remote_code=options.trust_remote_code,
            use_fast=True,
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TransplantError(
            f"{path} has no tokenizer that transformers can load ({reason}). "
            + (
                "Put its tokenizer files (tokenizer.json, tokenizer_config.json) into that "
                "directory, or name another model."
                if local
                else "Check the name in `tokenizer_source:` and in the list of models."
            )
        ) from error


def read_vocabulary(tokenizer: transformers.PreTrainedTokenizerBase, name: str) -> Vocabulary:
    """`Vocabulary.from_tokenizer`, with its refusals as errors that a user sees."""
    try:
        return Vocabulary.from_tokenizer(tokenizer, name)
    except ValueError as error:
        raise TransplantError(str(error)) from error


@dataclass(frozen=True)
class Override:
    """One entry of `tokenizer: tokens:`, resolved: which row to write to which output id."""

    output_id: int
    token: str
    model: ModelReference | None
    """None for a row of zeros."""
    row: int
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

    A token that its source model has as an added token keeps its settings: a control token stays
    one. Any other is matched as it is written; mergekit has it normalised first, so that with a
    SentencePiece tokenizer it is found at the start of a text alone.
    """
    held = tokenizer.get_vocab()
    for token, setting in settings.items():
        if token in held:
            continue
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
        tokenizer.add_tokens(added, special_tokens=added.special)


def resolve_overrides(
    settings: dict[str, TokenEmbeddingConfig],
    output: Vocabulary,
    models: list[ModelReference],
    vocabularies: Vocabularies,
) -> list[Override]:
    """Each entry of `tokens:` as a row of a model of the merge.

    Raises TransplantError for a source outside the merge and for a token or id it lacks.
    """
    ids = {string: i for i, string in enumerate(output.strings) if string is not None}
    overrides = []
    for token, setting in settings.items():
        source = setting.source
        if source is None:
            continue
        if isinstance(source, ZeroEmbedding):
            overrides.append(Override(ids[token], token, None, 0, setting.force))
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
            if wanted not in vocabulary.strings:
                raise TransplantError(
                    f"`tokens:` takes the row of {token!r} from the token {wanted!r} of {model}, "
                    "which that model's tokenizer does not have."
                )
            row = vocabulary.strings.index(wanted)
        else:
            row = wanted
        overrides.append(Override(ids[token], token, model, row, setting.force))
    return overrides
