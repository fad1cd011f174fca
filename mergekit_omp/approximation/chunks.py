"""Work over many tokens in pieces that fit a memory budget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm import tqdm

_budget: ContextVar[int] = ContextVar("budget", default=256 * 2**20)


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
    """Slices of `range(count)`, each of as many items as the budget holds, at least one.

    `bytes_each` is what one item's temporaries take; `progress` shows a bar named `label`.
    """
    size = max(1, _budget.get() // max(1, bytes_each))
    with tqdm(total=count, desc=label, unit="token", disable=not progress) as bar:
        for start in range(0, count, size):
            stop = min(start + size, count)
            yield slice(start, stop)
            bar.update(stop - start)
