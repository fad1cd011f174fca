"""How models are named where others read: a local path by its last part, a cached one by its repository."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

_ABSOLUTE = re.compile(r"[/~\\]|[A-Za-z]:[\\/]")
_CACHED = re.compile(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\][0-9a-f]+$")


class ShownNames:
    """Names for absolute paths, each as short as tells them apart; everything else stays."""

    def __init__(self, paths: Iterable[str]):
        full = {path.rstrip("/\\") for path in paths if _ABSOLUTE.match(path)}
        self._names = {path: _name(path, full) for path in full}
        cached = {name for path, name in self._names.items() if _CACHED.search(path)}
        self.local = frozenset(self._names.values()) - cached
        """The short names of folders that are no copies of a repository on the Hub."""
        # The longest first: one path may be the beginning of another.
        ordered = sorted(full, key=len, reverse=True)
        self._pattern = re.compile(
            r"(?<![\w/\\])(" + "|".join(map(re.escape, ordered)) + r")[/\\]*(?![\w/\\-])|"
            r"(?<![\w/\\])(" + "|".join(map(re.escape, ordered)) + r")(?=[/\\])"
        )

    def __call__(self, text: str) -> str:
        """A text in which the paths have their short names."""
        if not self._names:
            return text
        return self._pattern.sub(lambda found: self._names[found[1] or found[2]], text)

    def of(self, content: Any) -> Any:
        """The same for JSON; a text in it that is another absolute path is cut to its last part."""
        if isinstance(content, dict):
            return {key: self.of(value) for key, value in content.items()}
        if isinstance(content, (list, tuple)):
            return [self.of(value) for value in content]
        if not isinstance(content, str):
            return content
        shown = self(content)
        alone = shown == content and os.path.isabs(content) and "\n" not in content
        return os.path.basename(content.rstrip("/\\")) or content if alone else shown


def _name(path: str, others: set[str]) -> str:
    cached = _CACHED.search(path)
    if cached:
        return f"{cached[1]}/{cached[2]}"
    parts = PurePath(path.replace("\\", "/")).parts
    for count in range(1, len(parts)):
        name = "/".join(parts[-count:])
        if not any(other != path and other.endswith("/" + name) for other in others):
            return name
    return path
