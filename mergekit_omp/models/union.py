"""The union of several tokenizers, as mergekit makes it, in seconds and in the same order each run.

mergekit adds every token that the base's tokenizer lacks with a call of its own, which is
quadratic, and in the order of a hash map. Here they are added at once, by model and id; the
tokens and their settings are the same.
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
    """A union's tokenizer, and the ordinary tokens of other models that it gained."""

    tokenizer: transformers.PreTrainedTokenizerBase
    gained: tuple[str, ...]


def union_tokenizer(
    base: ModelReference,
    tokenizers: Mapping[ModelReference, transformers.PreTrainedTokenizerBase],
    options: MergeOptions,
) -> Union:
    """The base's tokenizer with every token of the others added, ordinary tokens first."""
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
    # A copy by way of files, so that the base's own tokenizer stays as it is.
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
    """The alignment with the model's own rows for those of its tokens that the union gained.

    Such a token is written as the model's tokenizer spells it (`Ġword`), which is not the text
    that it stood for there, so its bytes do not match, or match another token (WordPiece's `view`
    has the bytes of `##view`); its string does.
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
    """Refuse a token that two models give roles which have nothing in common."""
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
