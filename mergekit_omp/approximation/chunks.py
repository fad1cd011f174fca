"""Work over many tokens in pieces that fit a memory budget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm import tqdm

from mergekit_omp.pursuit.cuts import power_of_two

WORKING_MEMORY = 256 * 2**20
_budget: ContextVar[int] = ContextVar("budget", default=WORKING_MEMORY)
STRIP = 8 * 2**20
"""Temporaries of so many bytes stay in a cache, and are taken again rather than asked of the
operating system, which clears memory before it gives it."""

SHOWN_AFTER = 1
"""Seconds of work before its bar is shown."""


@contextmanager
def working_memory(amount: int) -> Iterator[None]:
    """Within it, the temporaries of one piece may take `amount` bytes (256 MiB by default)."""
    token = _budget.set(amount)
    try:
        yield
    finally:
        _budget.reset(token)


def chunks(
    count: int, bytes_each: int, *, progress: bool = False, label: str = ""
) -> Iterator[slice]:
    """Slices of `range(count)`, each of as many items as the budget holds, at least one: a power of
    two, and no more than `pursuit.cuts.BLOCK`.

    `bytes_each` is what one item's temporaries take; `progress` shows a bar named `label`.
    """
    return _slices(count, _budget.get() // max(1, bytes_each), progress, label)


def strips(
    count: int, bytes_each: int, *, progress: bool = False, label: str = ""
) -> Iterator[slice]:
    """Such slices, but no larger than a `STRIP`: for work that reads each item once."""
    return _slices(count, min(_budget.get(), STRIP) // max(1, bytes_each), progress, label)


def _slices(count: int, size: int, progress: bool, label: str) -> Iterator[slice]:
    # Whoever works on a block of the tokens alone then gets the slices that all of them have there.
    size = power_of_two(size)
    off = not progress
    with tqdm(total=count, desc=label, unit="token", disable=off, delay=SHOWN_AFTER) as bar:
        for start in range(0, count, size):
            stop = min(start + size, count)
            yield slice(start, stop)
            bar.update(stop - start)
