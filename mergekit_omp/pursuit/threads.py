"""Spreads rows over as many threads as torch uses, while torch's own are idle."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch


def in_threads(work: Callable[[int, int], object], count: int, multiple: int = 1) -> None:
    """Calls `work(first, last)` for shares of `count` rows that begin at a multiple.

    The work is to release the interpreter's lock; inside it torch has one thread.
    """
    threads = torch.get_num_threads()
    groups = -(-count // multiple)
    ends = [min(count, groups * at // threads * multiple) for at in range(threads + 1)]
    shares = [(first, last) for first, last in pairwise(ends) if first < last]

    def alone(first: int, last: int) -> None:
        torch.set_num_threads(1)
        work(first, last)

    try:
        with ThreadPoolExecutor(threads) as pool:
            for job in [pool.submit(alone, *share) for share in shares]:
                job.result()
    finally:
        torch.set_num_threads(threads)
