"""Models that several tests of merges put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from merges import merge_here


@pytest.fixture(scope="module")
def family(models: Any) -> list[Path]:
    """A base and two fine-tunes of it: one vocabulary, other weights."""
    return [
        models(f"sp_{seed}", "sentencepiece_bpe", seed=seed, layers=1, hidden=16)
        for seed in (0, 5, 6)
    ]


@pytest.fixture(scope="module")
def base(models: Any) -> Path:
    """The family's base; modules that need another have their own."""
    return models("sp_0", "sentencepiece_bpe", seed=0, layers=1, hidden=16)


@pytest.fixture(scope="module")
def donor(models: Any) -> Path:
    """A donor of another vocabulary and hidden size."""
    return models("bytes", "byte_level", hidden=48, seed=1)


@pytest.fixture
def refused_late(tmp_path: Path) -> Any:
    """Merge by a config that fails while it runs; what was said."""

    def run(config: dict[str, Any]) -> str:
        done = merge_here(config, tmp_path / "failed")
        assert done.status == 1, done.text
        (error,) = [line for line in done.text.splitlines() if line.startswith("Error: ")]
        return error

    return run
