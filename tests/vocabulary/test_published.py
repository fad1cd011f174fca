"""Counts on published tokenizers, against counts taken straight from their files."""

from __future__ import annotations

import pytest

from mergekit_omp.vocabulary import Match, align

SHARED = {"qwen": 109_566, "llama4": 100_438, "tekken": 71_640, "mistral3": 29_110}


@pytest.mark.parametrize("other", SHARED)
def test_ordinary_tokens_shared_with_llama3(vocabulary, other):
    counts = align(vocabulary("llama3"), vocabulary(other)).counts
    assert counts.shared == SHARED[other]
    assert align(vocabulary(other), vocabulary("llama3")).counts.shared == SHARED[other]


def test_copied_rows_stand_for_the_same_bytes(vocabulary):
    alignment = align(vocabulary("qwen"), vocabulary("llama3"))
    for i in (alignment.match == Match.BYTES).nonzero()[0].tolist():
        source = alignment.source[i]
        assert alignment.model.content[source] == alignment.output.content[i]
