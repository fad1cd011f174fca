"""The log of a merge: each message once, printed above progress bars; only errors with --quiet."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import tqdm

_PACKAGE = "mergekit_omp"


class MergeLog:
    """Handles what the package logs during one merge.

    A log record belongs to the merge within whose `scope` it is made.
    """

    def __init__(self, *, quiet: bool):
        self.quiet = quiet
        self._written: set[tuple[int, str]] = set()
        self._run_warnings: list[str] = []
        self._lock = threading.Lock()

    @contextmanager
    def scope(self, *, running: bool = False) -> Iterator[None]:
        """Within it, what the package logs in this thread belongs to this merge.

        `running` is set while the graph runs: warnings are then kept for the merge's record.
        """
        _catch_all()
        token = _scope.set((self, running))
        try:
            yield
        finally:
            _scope.reset(token)

    def run_warnings(self) -> list[str]:
        """Warnings logged while the graph ran, sorted: threads may log them in any order."""
        return sorted(self._run_warnings)

    def write(self, record: logging.LogRecord, *, running: bool) -> None:
        """Pass a log record to the handlers, unless it is a repetition or the merge is quiet."""
        fact = (record.levelno, record.getMessage())
        with self._lock:
            if fact in self._written:
                return
            self._written.add(fact)
            if running and record.levelno == logging.WARNING:
                self._run_warnings.append(record.getMessage())
        if self.quiet and record.levelno < logging.ERROR:
            return
        with tqdm.tqdm.external_write_mode(file=sys.stderr):
            logging.getLogger(record.name).callHandlers(record)


_scope: ContextVar[tuple[MergeLog, bool] | None] = ContextVar("log_scope", default=None)


def _catch_all() -> None:
    """Add our filter to every logger of the package."""
    # On each of them: a logger's filter does not see what its children log.
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == _PACKAGE:
            logging.getLogger(name).addFilter(_to_its_merge)


def _to_its_merge(record: logging.LogRecord) -> bool:
    found = _scope.get()
    if found is None:
        return True
    log, running = found
    log.write(record, running=running)
    return False
