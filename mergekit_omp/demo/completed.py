"""Folders that get their name when they are complete, so that one that exists is whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def completed(entry: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `entry` at the end, and disappears on an error."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=entry.parent) as scratch:
        folder = Path(scratch) / "folder"
        folder.mkdir()
        yield folder
        if entry.exists():
            entry.rename(Path(scratch) / "replaced")
        folder.rename(entry)
