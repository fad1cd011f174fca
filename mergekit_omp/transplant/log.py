"""The log of a merge: each fact once, above the progress bars; with --quiet nothing but errors."""

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
    """What the package's loggers write in the course of one merge.

    The records belong to it that are made within its `scope`, in whichever thread.
    """

    def __init__(self, *, quiet: bool):
        self.quiet = quiet
        self._written: set[tuple[int, str]] = set()
        self._run_warnings: list[str] = []
        self._lock = threading.Lock()

    @contextmanager
    def scope(self, *, running: bool = False) -> Iterator[None]:
        """Within it, what the package logs in this thread belongs to the merge.

        `running` while the graph runs: the warnings that come up then are kept for the record.
        """
        _catch_all()
        token = _scope.set((self, running))
        try:
            yield
        finally:
            _scope.reset(token)

    def run_warnings(self) -> list[str]:
        """What the merge has warned of while it ran, in an order that does not vary."""
        return sorted(self._run_warnings)

    def write(self, record: logging.LogRecord, *, running: bool) -> None:
        """Hand a record to the handlers, unless it was before or the merge is quiet."""
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
    """Have every logger of the package ask which merge a record belongs to."""
    # A filter of a logger is not asked about the records of its children.
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
