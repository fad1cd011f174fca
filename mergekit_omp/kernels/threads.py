"""Spreads rows over as many threads as torch uses, while torch's own are idle."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache

import torch
from threadpoolctl import threadpool_limits


def in_threads(
    work: Callable[[int, int], object],
    count: int,
    share: int | None = None,
    done: Callable[[int], object] | None = None,
) -> None:
    """Calls `work(first, last)` for shares of `count` rows.

    Each thread gets one share, or else all get shares of so many rows in turn; `done` is told how
    many rows were. The work is to release the interpreter's lock; inside it torch has one thread,
    and work that it shares out is done where it is.
    """
    threads = torch.get_num_threads()
    if share is None:
        share = max(1, -(-count // threads))
    if threads == 1:
        for first in range(0, count, share):
            last = min(first + share, count)
            work(first, last)
            if done is not None:
                done(last - first)
        return
    pool = _pool(threads)
    jobs = {}
    for first in range(0, count, share):
        last = min(first + share, count)
        jobs[pool.submit(work, first, last)] = last - first
    try:
        for job in as_completed(jobs):
            job.result()
            if done is not None:
                done(jobs[job])
    finally:
        # After an error or an interrupt the rest would go on, and the process wait for it.
        for job in jobs:
            job.cancel()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "kernels", initializer=_alone)


def _alone() -> None:
    """Gives this thread's torch one thread.

    `torch.set_num_threads` would do so for every thread that uses torch for the first time.
    """
    torch.get_num_threads()  # the first use, which sets what all threads get
    threadpool_limits(1, user_api="openmp")


if hasattr(os, "register_at_fork"):
    # A forked process has none of its parent's threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)
