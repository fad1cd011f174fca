"""The texts of a problem in which some shared tokens are made out to be missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mergekit_omp.approximation.base import Texts
from mergekit_omp.vocabulary import Vocabulary


def hidden_texts(
    model: Vocabulary, donor: Vocabulary, base_rows: int, hidden: Sequence[int]
) -> Texts:
    """Texts in which the model has no token at the rows `hidden`, which are the missing ones."""
    gone = frozenset(hidden)
    return Texts(
        missing=[model.content[row] for row in hidden],
        base=[None if row in gone else text for row, text in enumerate(model.content[:base_rows])],
        donor=donor.content,
        segment_in_base=_segmenter(model.segment, gone),
        segment_in_donor=donor.segment,
    )


def _segmenter(
    segment: Callable[[Sequence[bytes]], list[list[int]]], gone: frozenset[int]
) -> Callable[[Sequence[bytes]], list[list[int]]]:
    """`segment` without the tokens that are gone: a text that needs one is cut in two first.

    Of all places for the cut, the first that leaves fewest pieces; byte by byte where none will do.
    """

    def single_bytes(piece: bytes) -> list[int]:
        found = segment([piece[i : i + 1] for i in range(len(piece))])
        return [i for ids in found for i in ids if i not in gone]

    def without(pieces: Sequence[bytes]) -> list[list[int]]:
        found = segment(pieces)
        for i, (piece, ids) in enumerate(zip(pieces, found, strict=True)):
            if gone.isdisjoint(ids):
                continue
            halves = [half for cut in range(1, len(piece)) for half in (piece[:cut], piece[cut:])]
            cut_ids = segment(halves)
            whole = [a + b for a, b in zip(cut_ids[::2], cut_ids[1::2], strict=True) if a and b]
            left = [ids for ids in whole if gone.isdisjoint(ids)]
            found[i] = min(left, key=len) if left else single_bytes(piece)
        return found

    return without
