"""Sets of token ids as short text: '3 7-12', so that a record of 100,000 ids stays readable."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, Int64


def written(ids: Int[np.ndarray, "ids"]) -> str:
    """Ids, in any order and repeated or not, as ascending ranges."""
    ids = np.unique(ids)
    if not len(ids):
        return ""
    runs = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
    return " ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def read(text: str) -> Int64[np.ndarray, "ids"]:
    """The ids that `written` wrote, ascending. ValueError for anything else."""
    runs = [run.partition("-") for run in text.split()]
    ranges = [np.arange(int(first), int(last or first) + 1) for first, _, last in runs]
    return np.concatenate([np.empty(0, dtype=np.int64), *ranges]).astype(np.int64)
