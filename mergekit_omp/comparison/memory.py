"""How much memory some work takes at its peak, on the processor and on a GPU."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import psutil
import torch

_SECONDS = 0.005
"""Between two looks at the process's size."""


class PeakMemory:
    """Within it, what this process takes on top of what it held before. Looked at from a thread.

    `bytes` is the largest growth of the resident set; with a device other than the CPU, that of the
    device's memory.
    """

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._device = device
        self._process = psutil.Process()
        self._ended = threading.Event()
        self.bytes = 0
        self.seconds = 0.0

    def __enter__(self) -> PeakMemory:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            self._before = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._started
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS):
            self._look()

    def _look(self) -> None:
        if self._cuda:
            size = torch.cuda.max_memory_allocated(self._device)
        else:
            size = self._process.memory_info().rss
        self.bytes = max(self.bytes, size - self._before)
