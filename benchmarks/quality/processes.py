"""Calls that take long, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def in_processes(
    function: Callable[..., object], calls: Iterable[tuple[Any, ...]], processes: int
) -> None:
    """Calls `function` with each of these arguments, so many at once as `processes` says."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for job in [pool.submit(function, *arguments) for arguments in calls]:
            job.result()
