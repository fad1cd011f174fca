"""Swaps to be healed, of several kinds of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from merges import merge_here, swap


@pytest.fixture(scope="session")
def swapped(
    base: Path, donor: Path, models: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`swapped(kind)`: a swap of one of several kinds of models, made once."""
    folder = tmp_path_factory.mktemp("swapped")
    bases: dict[str, Callable[[], Path]] = {
        "untied": lambda: base,
        "tied": lambda: models("tied", "sentencepiece_bpe", tied=True, layers=1, hidden=16),
        "sharded": lambda: models(
            "sharded", "sentencepiece_bpe", layers=1, hidden=16, shard_size="20KB"
        ),
        # A head with a bias, and layers of other names.
        "phi": lambda: models(
            "phi",
            "sentencepiece_bpe",
            model_type="phi",
            layers=1,
            hidden=16,
            partial_rotary_factor=0.5,
        ),
        # An embedding that scales what it looks up, tied.
        "gemma": lambda: models(
            "gemma",
            "sentencepiece_bpe",
            model_type="gemma",
            tied=True,
            layers=1,
            hidden=16,
            head_dim=8,
        ),
    }

    def make(kind: str, dtype: str = "float32") -> Path:
        out = folder / f"{kind}-{dtype}"
        if not out.exists():
            options = ("--out-shard-size", "20K") if kind == "sharded" else ()
            done = merge_here(swap(bases[kind](), donor, dtype=dtype), out, *options)
            assert done.status == 0, done.text
        return out

    return make
