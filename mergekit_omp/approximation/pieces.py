"""Rows of tokens from the rows of the pieces that a tokenizer cuts them into."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, chain

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mergekit_omp.approximation.base import Segment, Texts
from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.codes import working_dtype


def combine_pieces(
    matrix: Float[Tensor, "rows dim"],
    segments: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float]],
) -> Float[Tensor, "segments dim"]:
    """The weighted sum of the rows of each segment's pieces; zeros for a segment without any.

    float32, or float64 where `matrix` is.
    """
    dtype, device = working_dtype(matrix), matrix.device
    result = matrix.new_zeros((len(segments), matrix.shape[1]), dtype=dtype)
    longest = max(map(len, segments), default=0)
    for block in chunks(len(segments), dtype.itemsize * longest * matrix.shape[1]):
        pieces = torch.tensor(list(chain.from_iterable(segments[block])), dtype=torch.int64)
        if len(pieces) == 0:
            continue
        starts = list(accumulate(map(len, segments[block]), initial=0))[:-1]
        result[block] = functional.embedding_bag(
            torch.arange(len(pieces), device=device),
            matrix[pieces.to(device)].to(dtype),
            torch.tensor(starts, device=device),
            mode="sum",
            per_sample_weights=torch.tensor(
                list(chain.from_iterable(weights[block])), dtype=dtype, device=device
            ),
        )
    return result


def pieces_of_missing(texts: Texts) -> list[list[int]]:
    """The base's rows of the pieces into which its tokenizer cuts each missing token.

    Where the base has the very token (its row is not to be copied), it is cut as
    `pieces_without_itself` cuts it.
    """
    spelled = [i for i, text in enumerate(texts.missing) if text]
    segments = texts.segment_in_base([texts.missing[i] or b"" for i in spelled])
    found: list[list[int]] = [[] for _ in texts.missing]
    whole = []
    for i, pieces in zip(spelled, segments, strict=True):
        found[i] = pieces
        if len(pieces) == 1 and texts.base[pieces[0]] == texts.missing[i]:
            whole.append(i)
    rows = [found[i][0] for i in whole]
    for i, pieces in zip(whole, pieces_without_itself(texts, rows), strict=True):
        found[i] = pieces
    return found


def pieces_without_itself(texts: Texts, rows: Sequence[int]) -> list[list[int]]:
    """The pieces into which each of the base's tokens at `rows` would be cut, were it no token.

    That is two tokens where there are two that make it up: of several such pairs the one whose
    later token comes first in the vocabulary, since vocabularies list tokens in the order of their
    merges or of their frequency. Otherwise it is the longest token with which it begins, followed
    by the pieces of the rest. A single byte has no pieces.
    """
    words = [texts.base[row] or b"" for row in rows]
    return texts.once(
        ("pieces", *rows), lambda: _taken_apart(texts.segment_in_base, texts.base, words)
    )


def segmenter_without(
    segment: Segment, content: Sequence[bytes | None], gone: Collection[int]
) -> Segment:
    """`segment` as it would be without the tokens at the rows `gone`.

    `content` holds the bytes of every row. A token that is gone is replaced by its pieces, as in
    `pieces_without_itself`, or by its single bytes where it has none.
    """
    left = [None if row in gone else text for row, text in enumerate(content)]
    lost = sorted(gone)

    @functools.cache
    def parts() -> dict[int, list[int]]:
        words = [content[row] or b"" for row in lost]
        found = dict(zip(lost, _taken_apart(segment, left, words), strict=True))
        single = [row for row, pieces in found.items() if not pieces]
        spelled = segment([b for row in single for b in _single_bytes(content[row] or b"")])
        at = iter(spelled)
        for row in single:
            pieces = [i for _ in content[row] or b"" for i in next(at)]
            found[row] = [i for i in pieces if i != row and len(content[i] or b"") == 1]
        return found

    def expanded(row: int) -> list[int]:
        # Pieces are shorter than the token itself, so that this ends.
        return [i for part in parts()[row] for i in expanded(part)] if row in gone else [row]

    def without(pieces: Sequence[bytes]) -> list[list[int]]:
        return [[i for row in ids for i in expanded(row)] for ids in segment(pieces)]

    return without


def _taken_apart(
    segment: Segment, content: Sequence[bytes | None], words: Sequence[bytes]
) -> list[list[int]]:
    """The tokens of `content`, each shorter than the word, that make up each word."""
    known = {text for text in content if text}
    parts = {
        half
        for word in words
        for cut in range(1, len(word))
        for half in (word[:cut], word[cut:])
        if half in known
    }
    candidates = sorted(parts)
    row_of = {
        part: pieces[0]
        for part, pieces in zip(candidates, segment(candidates), strict=True)
        if len(pieces) == 1
    }
    found = [_halves(word, row_of) for word in words]
    uncut = [i for i, pieces in enumerate(found) if not pieces and len(words[i]) > 1]
    heads = [_longest_start(words[i], row_of) for i in uncut]
    rests = [words[i][len(head) :] for i, head in zip(uncut, heads, strict=True)]
    for i, head, rest in zip(uncut, heads, segment(rests), strict=True):
        if head:
            found[i] = [row_of[head], *rest]
    return found


def _single_bytes(word: bytes) -> list[bytes]:
    return [word[i : i + 1] for i in range(len(word))]


def _halves(word: bytes, row_of: Mapping[bytes, int]) -> list[int]:
    pairs = [
        (row_of[word[:cut]], row_of[word[cut:]])
        for cut in range(1, len(word))
        if word[:cut] in row_of and word[cut:] in row_of
    ]
    return list(min(pairs, key=lambda pair: (max(pair), pair))) if pairs else []


def _longest_start(word: bytes, row_of: Mapping[bytes, int]) -> bytes:
    return next((word[:cut] for cut in range(len(word) - 1, 0, -1) if word[:cut] in row_of), b"")
