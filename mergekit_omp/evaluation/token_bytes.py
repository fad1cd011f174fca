"""Which bytes of a document each token stands for, and where two tokenizers have equal tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from mergekit_omp.evaluation.scoring import TokenScores
from mergekit_omp.vocabulary import Kind, Vocabulary


def token_ends(
    vocabulary: Vocabulary, ids: Int64[np.ndarray, "tokens"], document: str
) -> Int64[np.ndarray, "tokens"] | None:
    """Where each token ends in the document's bytes, or None where they are other bytes.

    The space that SentencePiece puts before a text (its dummy prefix) is no byte of it. Tokens
    are other bytes than the text where the tokenizer changes it (lower case, accents, NFKC) or
    has an unknown token.
    """
    pieces = [vocabulary.content[i] if i < vocabulary.size else None for i in ids.tolist()]
    if any(piece is None for piece in pieces):
        return None
    data = b"".join(piece or b"" for piece in pieces)
    text = document.encode("utf-8")
    ends = np.cumsum([len(piece or b"") for piece in pieces], dtype=np.int64)
    if data == text:
        return ends
    if data[:1] == b" " and data[1:] == text:
        return np.maximum(ends - 1, 0)
    return None


def widths(ends: Int64[np.ndarray, "tokens"]) -> Int64[np.ndarray, "tokens"]:
    """Bytes of each token."""
    return np.diff(ends, prepend=0)


def in_common(
    ends: Int64[np.ndarray, "tokens"], others: Int64[np.ndarray, "others"]
) -> tuple[Int64[np.ndarray, "both"], Int64[np.ndarray, "both"]]:
    """Places in two segmentations of one document at which both have a token of the same bytes.

    The first token of a document is left out, since some tokenizers put a space before it.
    """
    spans = []
    for side in (ends, others):
        starts = np.concatenate([np.zeros(1, dtype=np.int64), side])[: len(side)]
        kept = np.flatnonzero((starts > 0) & (side > starts))
        spans.append((kept, (starts[kept] << 32) | side[kept]))
    (places, mine), (other_places, theirs) = spans
    _, first, second = np.intersect1d(mine, theirs, assume_unique=True, return_indices=True)
    return places[first], other_places[second]


def meanings(vocabularies: Sequence[Vocabulary]) -> list[Int64[np.ndarray, "size"]]:
    """For each vocabulary a number per id, the same for tokens of the same bytes or role."""
    numbers: dict[object, int] = {}
    found: list[np.ndarray] = []
    for vocabulary in vocabularies:
        roles = {i: role for role, i in reversed(vocabulary.roles.items())}
        keys = [
            data
            if data is not None
            else ("role", roles[i])
            if i in roles
            else ("markup", vocabulary.strings[i])
            if vocabulary.kinds[i] == Kind.CONTROL
            else ("gap", len(found), i)
            for i, data in enumerate(vocabulary.content)
        ]
        found.append(
            np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
        )
    return found


def agreement(
    scores: TokenScores,
    ends: Int64[np.ndarray, "tokens"],
    meaning: Int64[np.ndarray, "size"],
    base: TokenScores,
    base_ends: Int64[np.ndarray, "base_tokens"],
    base_meaning: Int64[np.ndarray, "base_size"],
) -> Bool[np.ndarray, "places"]:
    """Whether model and base find the same token most likely, wherever both segment alike."""
    mine, theirs = in_common(ends, base_ends)
    predicted, expected = scores.predicted[mine], base.predicted[theirs]
    known = (predicted < len(meaning)) & (expected < len(base_meaning))
    same = meaning[np.where(known, predicted, 0)] == base_meaning[np.where(known, expected, 0)]
    agrees: Bool[np.ndarray, "places"] = known & same
    return agrees
