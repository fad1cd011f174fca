"""Shared tokens that resemble the missing ones, to be hidden and approximated as a check.

Shared tokens are shorter and commoner than missing ones, so a plain sample of them would not tell
how the missing ones fare. Instead missing tokens are sampled as often as text is expected to use
them (Zipf's law: inversely to the rank, for which the id in the donor's vocabulary stands), and
each is paired with the shared token nearest to it: matching on covariates, as observational
studies do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int, Int64

_OTHER_KIND, _OTHER_START = 3.0, 1.0
"""What it costs to pair tokens of different kinds, in units of log length and log rank."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Each hidden token and the missing token for which it stands."""

    hidden: Int64[np.ndarray, "pairs"]
    """Positions among the anchors, each once."""
    missing: Int64[np.ndarray, "pairs"]
    """Positions among the missing tokens."""


def look_alikes(
    missing: Sequence[bytes | None],
    missing_ids: Int[np.ndarray, "missing"],
    anchors: Sequence[bytes | None],
    anchor_ids: Int[np.ndarray, "anchors"],
    count: int,
) -> Pairs:
    """Pairs up to `count` missing tokens, sampled systematically by Zipf's law.

    Tokens are alike in what they are written in, whether a space comes first, their length, and
    their id in the donor's vocabulary, which stands for how common they are. Control tokens
    (None) are never paired.
    """
    spelled = np.array([i for i, text in enumerate(missing) if text is not None], dtype=np.int64)
    spelled = spelled[np.argsort(missing_ids[spelled], kind="stable")]
    if not len(spelled) or not len(anchors):
        return Pairs(spelled[:0], spelled[:0])
    use = _inclusion(1 / (missing_ids[spelled] + 1.0), min(count, len(anchors)))
    steps = np.arange(round(use.sum())) + 0.5
    chosen = spelled[np.unique(np.searchsorted(np.cumsum(use), steps))]
    wanted = _features([missing[i] for i in chosen], missing_ids[chosen])
    held = _features(anchors, anchor_ids)
    taken = np.zeros(len(anchors), dtype=bool)
    hidden = np.empty(len(chosen), dtype=np.int64)
    for i, features in enumerate(wanted):
        apart = np.abs(held - features)
        distance = (
            apart[:, 2:].sum(1)
            + _OTHER_KIND * (apart[:, 0] != 0)
            + _OTHER_START * (apart[:, 1] != 0)
        )
        distance[taken] = np.inf
        hidden[i] = distance.argmin()
        taken[hidden[i]] = True
    return Pairs(hidden, chosen)


def _inclusion(sizes: Float64[np.ndarray, "units"], count: int) -> Float64[np.ndarray, "units"]:
    """Chances proportional to size that sum to `count`, none above 1, for sampling without return.

    Units too large for their share get 1; the others share what is left.
    """
    if count >= len(sizes):
        return np.ones(len(sizes))
    certain = np.zeros(len(sizes), dtype=bool)
    while True:
        left = count - certain.sum()
        chances = np.where(certain, 1.0, sizes * left / sizes[~certain].sum())
        above = (chances > 1) & ~certain
        if not above.any():
            return chances
        certain |= above


def _features(
    texts: Sequence[bytes | None], ids: Int[np.ndarray, "tokens"]
) -> Float64[np.ndarray, "tokens 4"]:
    """Kind of text, whether a space comes first, log length, log id."""
    rows = [(_kind(text or b""), (text or b"")[:1] == b" ", len(text or b"")) for text in texts]
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return np.column_stack([table[:, :2], np.log1p(table[:, 2]), np.log1p(ids)])


def _kind(text: bytes) -> int:
    """A number for each kind: part of a character, whitespace, ASCII letters, other letters,
    digits, rest."""
    try:
        word = text.decode().strip()
    except UnicodeDecodeError:
        return 0
    if not word:
        return 1
    if word.isalpha():
        return 2 if word.isascii() else 3
    return 4 if word.isdigit() else 5
