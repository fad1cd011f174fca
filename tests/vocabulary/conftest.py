"""Fixtures: real tokenizers and their vocabularies, read once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import real_tokenizers
from transformers import PreTrainedTokenizerFast

from mergekit_omp.vocabulary import Vocabulary


@pytest.fixture(scope="session")
def tokenizer(tokenizers_dir: Path) -> Callable[[str], PreTrainedTokenizerFast]:
    """Tokenizers of `real_tokenizers` by name."""
    return cache(lambda name: real_tokenizers.load(name, tokenizers_dir))


@pytest.fixture(scope="session")
def vocabulary(
    tokenizer: Callable[[str], PreTrainedTokenizerFast],
) -> Callable[[str], Vocabulary]:
    """Their vocabularies by name."""
    return cache(lambda name: Vocabulary.from_tokenizer(tokenizer(name), name))
