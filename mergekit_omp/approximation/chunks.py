"""Work over many tokens in pieces that fit a memory budget."""

from __future__ import annotations

from collections.abc import Iterator

from tqdm import tqdm

BUDGET = 256 * 2**20
"""Bytes that the temporaries of one piece may take."""


def chunks(
    count: int, bytes_each: int, *, progress: bool = False, label: str = ""
) -> Iterator[slice]:
    """Slices of `range(count)`, each of as many items as the budget holds, at least one.

    `bytes_each` is what one item's temporaries take; `progress` shows a bar named `label`.
    """
    size = max(1, BUDGET // max(1, bytes_each))
    with tqdm(total=count, desc=label, unit="token", disable=not progress) as bar:
        for start in range(0, count, size):
            stop = min(start + size, count)
            yield slice(start, stop)
            bar.update(stop - start)
