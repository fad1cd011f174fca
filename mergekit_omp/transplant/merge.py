"""One merge, from its plan to its end: its log, and what the steps after the graph ask for.

A merge is held by its plan and by its tasks alone. When they go, since it has ended or failed,
it goes with them; two that are planned side by side have nothing in common.
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
    """What mergekit's steps after the graph ask for."""

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
    """One merge: what its steps leave for later ones."""

    log: MergeLog
    output: MergeOutput | None = None
    """Once it is planned to be written; None for a merge in memory."""
    record: dict[str, Any] | None = None
    """`tokenizer_transplant.json`, once the graph has run."""
    row_facts: dict[tuple[int, int], RowFacts] = field(default_factory=dict)
    """What is known of each row then, by the numbers of its model and tensor in the record."""


_current: ContextVar[weakref.ref[Merge] | None] = ContextVar("current_merge", default=None)


def begin(*, quiet: bool) -> Merge:
    """A new merge, which the thread's (or asyncio task's) later steps find as `current`."""
    merge = Merge(MergeLog(quiet=quiet))
    _current.set(weakref.ref(merge))
    return merge


def current() -> Merge | None:
    """The merge that was begun last in this context; None where it has ended, or is not ours."""
    found = _current.get()
    return None if found is None else found()


def end() -> None:
    """The context's merge is over, or one that is mergekit's alone begins."""
    _current.set(None)
