"""Models that several tests of merges put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from merges import merge_here


@pytest.fixture(scope="module")
def narrow_donor(models: Any) -> Path:
    """A donor whose rows are as long as the family's, so that it can be merged with them."""
    return models("bytes", "byte_level", hidden=16, layers=1, seed=1)


@pytest.fixture
def refused_late(tmp_path: Path) -> Any:
    """Merge by a config that fails while it runs; what was said."""

    def run(config: dict[str, Any]) -> str:
        done = merge_here(config, tmp_path / "failed")
        assert done.status == 1, done.text
        (error,) = [line for line in done.text.splitlines() if line.startswith("Error: ")]
        return error

    return run
