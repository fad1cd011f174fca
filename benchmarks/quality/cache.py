"""What was made once is not made again: folders named by a digest of all that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mergekit_omp import approximation, kernels, pursuit, transplant, vocabulary

ROWS: tuple[ModuleType, ...] = (approximation, kernels, pursuit, transplant, vocabulary)
"""What decides the rows of every method."""


def default_cache_dir() -> Path:
    """`mergekit-omp/quality` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "mergekit-omp" / "quality"


def digest(settings: Any) -> str:
    """Sixteen hexadecimal digits that change when `settings` (plain data) change."""
    written = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def sources(modules: Sequence[ModuleType]) -> str:
    """A digest of their files' text, and for packages of all files in them."""
    files: list[Path] = []
    for module in modules:
        path = Path(str(module.__file__))
        files += sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    return digest([file.read_text(encoding="utf-8") for file in files])
