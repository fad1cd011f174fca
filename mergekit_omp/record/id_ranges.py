"""Sets of token ids as short text: '3 7-12', so that a record of 100,000 ids stays readable."""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Int, Int64


def written(ids: Int[np.ndarray, "ids"]) -> str:
    """Ids, in any order and repeated or not, as ascending ranges."""
    ids = np.unique(ids)
    if not len(ids):
        return ""
    runs = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
    return " ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def read(text: str, size: int) -> Int64[np.ndarray, "ids"]:
    """The ids below `size` that `written` wrote, ascending. ValueError for anything else."""
    ranges, before = [], -1
    for run in text.split():
        found = re.fullmatch(r"(\d{1,12})(?:-(\d{1,12}))?", run, re.ASCII)
        if found is None:
            raise ValueError(f"{run[:40]!r} is no range of ids")
        first, last = int(found[1]), int(found[2] or found[1])
        if not before < first <= last < size:
            raise ValueError(f"{run!r} is not in ascending ids below {size}")
        ranges.append(np.arange(first, last + 1))
        before = last
    return np.concatenate([np.empty(0, dtype=np.int64), *ranges]).astype(np.int64)
