"""How a merge speaks: each fact once, above the progress bars; with --quiet nothing but errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import tqdm

_PACKAGE = "mergekit_omp"


class MergeLog:
    """What the package's loggers say in the course of one merge."""

    def __init__(self, *, quiet: bool):
        self.quiet = quiet
        self.run_warnings: list[str] = []
        """Warnings that came up while the merge ran, not while it was planned."""
        self._said: set[tuple[int, str]] = set()

    def say(self, record: logging.LogRecord, *, running: bool) -> None:
        """Hand a record to the handlers, unless it was said before or the merge is quiet."""
        fact = (record.levelno, record.getMessage())
        if fact in self._said:
            return
        self._said.add(fact)
        if running and record.levelno == logging.WARNING:
            self.run_warnings.append(record.getMessage())
        if self.quiet and record.levelno < logging.ERROR:
            return
        with tqdm.tqdm.external_write_mode(file=sys.stderr):
            logging.getLogger(record.name).callHandlers(record)


_latest: MergeLog | None = None
_speaking: ContextVar[tuple[MergeLog, bool] | None] = ContextVar("merge", default=None)


def begin(*, quiet: bool) -> MergeLog:
    """The log of a merge that is about to be planned; `log_scope` uses the latest."""
    global _latest
    _latest = MergeLog(quiet=quiet)
    # A filter of a logger is not asked about what its children say.
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == _PACKAGE:
            logging.getLogger(name).addFilter(_gate)
    return _latest


def run_warnings() -> list[str]:
    """What the latest merge has warned of while it ran, in an order that does not vary."""
    return sorted(_latest.run_warnings) if _latest else []


@contextmanager
def log_scope(*, running: bool = False) -> Iterator[None]:
    """Within it, what the package logs in this thread belongs to the merge."""
    if _latest is None:
        yield
        return
    token = _speaking.set((_latest, running))
    try:
        yield
    finally:
        _speaking.reset(token)


def _gate(record: logging.LogRecord) -> bool:
    found = _speaking.get()
    if found is None:
        return True
    log, running = found
    log.say(record, running=running)
    return False
