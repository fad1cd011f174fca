"""Fixtures: real tokenizers, converted once and kept in pytest's cache."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from mergekit_omp.vocabulary import Vocabulary

sys.path.insert(0, str(Path(__file__).parents[1]))

import real_tokenizers


@pytest.fixture(scope="session")
def tokenizer(request: pytest.FixtureRequest) -> Callable[[str], PreTrainedTokenizerFast]:
    """Tokenizers of `real_tokenizers` by name."""
    folder = request.config.cache.mkdir("tokenizers")
    return cache(lambda name: real_tokenizers.load(name, folder))


@pytest.fixture(scope="session")
def vocabulary(
    tokenizer: Callable[[str], PreTrainedTokenizerFast],
) -> Callable[[str], Vocabulary]:
    """Their vocabularies by name."""
    return cache(lambda name: Vocabulary.from_tokenizer(tokenizer(name), name))
