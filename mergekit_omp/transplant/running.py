"""What surrounds the computations of a graph task."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from mergekit_omp.transplant.log import MergeLog


@contextlib.contextmanager
def running(log: MergeLog) -> Iterator[None]:
    """Within it, what is logged belongs to the merge, and new tensors are the CPU's unless told.

    mergekit's workers for several GPUs make each GPU the default of its thread.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(log.scope(running=True))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
