"""The state of one merge, from its plan to its end.

mergekit calls our hooks with its own objects only, so the merge of a thread is found through a
context variable. That holds a weak reference: only the plan and the tasks own the merge, so that it
is freed with them when it has ended or failed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from mergekit.common import ModelReference

from mergekit_omp.record.row_facts import RowFacts
from mergekit_omp.record.shown_names import ShownNames
from mergekit_omp.transplant.log import MergeLog


@dataclass(frozen=True, eq=False)
class MergeOutput:
    """What the steps after the graph need to know."""

    path: str
    """The directory that the merge writes into."""
    rows: int
    """How many rows the vocabulary tensors have."""
    sources: tuple[ModelReference, ...]
    """The base, the donor and the other models, as the card lists them."""
    shown: ShownNames
    """How record and card name models."""
    write_settings: Callable[[str], None]
    """Writes the settings beside the weights into the directory, once mergekit has written all."""


@dataclass(eq=False)
class Merge:
    """What the steps of one merge leave for later steps."""

    log: MergeLog
    output: MergeOutput | None = None
    """Set when a merge to disk is planned; None for a merge in memory."""
    record: dict[str, Any] | None = None
    """The content of `tokenizer_transplant.json`, but for its list of files; set by the graph's
    last task."""
    row_facts: dict[tuple[int, int], RowFacts] = field(default_factory=dict)
    """Facts on rows by (model, tensor), both counted from 0 in the record; set with `record`."""


_current: ContextVar[weakref.ref[Merge] | None] = ContextVar("current_merge", default=None)


def begin(*, quiet: bool) -> Merge:
    """A new merge, which later steps in this thread (or asyncio task) get by `current`."""
    merge = Merge(MergeLog(quiet=quiet))
    _current.set(weakref.ref(merge))
    return merge


def current() -> Merge | None:
    """The merge begun last in this thread.

    None where it has ended, or is not by one of our methods.
    """
    found = _current.get()
    return None if found is None else found()


def end() -> None:
    """Forget this thread's merge: it is over, or one by a method of mergekit's own begins."""
    _current.set(None)
