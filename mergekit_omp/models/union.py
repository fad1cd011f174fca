"""The union of several tokenizers: the tokens of mergekit's union, in an order that does not vary.

mergekit adds tokens that the base's tokenizer lacks one call at a time, which takes quadratic time,
and in the order of a hash map. Here they are added in one call, ordered by model and id.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping

import numpy as np
import transformers
from mergekit.common import ModelReference
from mergekit.options import MergeOptions

from mergekit_omp.errors import TransplantError
from mergekit_omp.vocabulary import Alignment, Match, Vocabulary

MANY = 300
"""How many ordinary tokens may become added tokens before the user is warned."""


@dataclasses.dataclass(frozen=True, eq=False)
class Union:
    """The tokenizer of a union, and the ordinary tokens of other models that were added to it."""

    tokenizer: transformers.PreTrainedTokenizerBase
    gained: tuple[str, ...]


def union_tokenizer(
    base: ModelReference,
    tokenizers: Mapping[ModelReference, transformers.PreTrainedTokenizerBase],
    options: MergeOptions,
) -> Union:
    """A copy of the base's tokenizer with all tokens of the others added, ordinary ones first."""
    base_vocabulary = tokenizers[base].get_vocab()
    ordinary: dict[str, None] = {}
    added: dict[str, transformers.AddedToken] = {}
    for tokenizer in tokenizers.values():
        for token in tokenizer.added_tokens_decoder.values():
            added.setdefault(token.content, token)
    for tokenizer in tokenizers.values():
        vocabulary = tokenizer.get_vocab()
        for token in sorted(vocabulary, key=vocabulary.__getitem__):
            if token not in added and token not in base_vocabulary:
                ordinary.setdefault(token)
    # Saved and loaded again, so that the base's own tokenizer does not change.
    with tempfile.TemporaryDirectory() as folder:
        tokenizers[base].save_pretrained(folder)
        result = transformers.AutoTokenizer.from_pretrained(
            folder, use_fast=True, trust_remote_code=options.trust_remote_code
        )
    result.add_tokens(list(ordinary))
    result.add_tokens(list(added.values()))
    return Union(result, tuple(ordinary))


def claim_gained(
    alignment: Alignment, gained: tuple[str, ...], rows: int | None = None
) -> Alignment:
    """The alignment, with tokens that the union added matched to the model's rows by string.

    A union adds `Ġword` as the text "Ġword", so that it no longer stands for the bytes " word" as
    in its own tokenizer. By bytes it would match nothing, or another token (WordPiece's `view` and
    `##view` have the same bytes).
    """
    held = alignment.model.strings[:rows]
    own = {string: i for i, string in enumerate(held) if string is not None}
    ids = {string: i for i, string in enumerate(alignment.output.strings) if string is not None}
    source, match = alignment.source.copy(), alignment.match.copy()
    anchors = alignment.anchors.copy()
    missing_before, by_bytes_before = source < 0, match == Match.BYTES
    for token in gained:
        target = ids[token]
        if token in own and source[target] != own[token]:
            source[target], match[target] = own[token], Match.STRING
            anchors[target] = False
    counts = dataclasses.replace(
        alignment.counts,
        shared=alignment.counts.shared - int((by_bytes_before & (match == Match.STRING)).sum()),
        by_string=int(np.count_nonzero(match == Match.STRING)),
        missing=alignment.counts.missing - int((missing_before & (source >= 0)).sum()),
    )
    return dataclasses.replace(
        alignment, source=source, match=match, anchors=anchors, counts=counts
    )


def check_roles(vocabularies: Mapping[ModelReference, Vocabulary]) -> None:
    """Refuse a token that has a role in two models, and no role that is the same in both."""
    claims: dict[str, tuple[ModelReference, set[str]]] = {}
    for model, vocabulary in vocabularies.items():
        roles: dict[str, set[str]] = {}
        for role, token in vocabulary.roles.items():
            string = vocabulary.strings[token]
            if string is not None:
                roles.setdefault(string, set()).add(role)
        for string, played in roles.items():
            first, other = claims.setdefault(string, (model, played))
            if not other & played:
                raise TransplantError(
                    f"`tokenizer_source: union`: the token {string!r} is "
                    f"{' and '.join(sorted(other))} in {first} and "
                    f"{' and '.join(sorted(played))} in {model}; one row cannot be both. Name "
                    "one of the models as `tokenizer_source:` instead."
                )
