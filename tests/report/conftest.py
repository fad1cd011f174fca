"""Merges that reports are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from merges import merge_here, swap
from related_models import Related, related


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, real_tokenizer: Callable[[str], Any]) -> Related:
    folder = tmp_path_factory.mktemp("related")
    return related(
        folder, real_tokenizer("sentencepiece_bpe"), real_tokenizer("byte_level"), noise=0.3
    )


@pytest.fixture(scope="session")
def swapped(pair: Related, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with the donor's tokenizer, by omp."""
    out = tmp_path_factory.mktemp("swapped") / "out"
    done = merge_here(swap(pair.base, pair.donor, parameters={"k": 8}), out)
    assert done.status == 0, done.text
    return out
