"""What was made once is not made again: folders named by a digest of all that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def default_cache_dir() -> Path:
    """`mergekit-omp/quality` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "mergekit-omp" / "quality"


def digest(settings: Any) -> str:
    """Sixteen hexadecimal digits that change when `settings` (plain data) change."""
    written = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(written.encode()).hexdigest()[:16]
