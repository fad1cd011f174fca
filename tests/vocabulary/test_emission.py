"""Which tokens a tokenizer can emit, against what it does emit."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import vocabulary as handmade
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_omp.vocabulary import Kind

NAMES = ["byte_level", "sentencepiece_bpe", "unigram", "wordpiece", "llama3", "qwen", "mistral3"]
ASCII = st.text(st.characters(max_codepoint=126), max_size=60)
NEVER_IN_UTF8 = [0xC0, 0xC1, *range(0xF5, 0x100)]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=80, deadline=None)
@given(text=ASCII | st.text(max_size=40))
def test_what_is_emitted_is_known_to_be(tokenizer, vocabulary, name, text):
    words = vocabulary(name)
    ids = np.array(tokenizer(name).encode(text, add_special_tokens=False), dtype=np.int64)
    ids = ids[words.kinds[ids] == Kind.ORDINARY]
    assert words.emitted(ids).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_manual_emits_nothing_else(tokenizer, vocabulary, name):
    from trained_tokenizers import manual

    words = vocabulary(name)
    backend = tokenizer(name).backend_tokenizer
    ids = np.array([i for e in backend.encode_batch(manual()) for i in e.ids], dtype=np.int64)
    ids = np.unique(ids[words.kinds[ids] == Kind.ORDINARY])
    assert words.emitted(ids).all()


@pytest.mark.parametrize("name", ["mistral3", "unigram"])
def test_byte_pieces_are_emitted_for_characters_without_a_token(tokenizer, vocabulary, name):
    words = vocabulary(name)
    points = [*range(0xD800), *range(0xE000, 0x30000), *range(0x30000, 0x110000, 61)]
    characters = [chr(point) for point in points]
    runs = ["a".join(characters[i : i + 50]) for i in range(0, len(characters), 50)]
    seen = np.zeros(words.size, dtype=bool)
    for start in range(0, len(runs), 4000):
        for encoding in tokenizer(name).backend_tokenizer.encode_batch_fast(
            runs[start : start + 4000]
        ):
            seen[encoding.ids] = True
    pieces = [i for i, s in enumerate(words.strings) if s and s.startswith("<0x")]
    assert len(pieces) == 256
    assert words.emitted(np.array(pieces)).tolist() == seen[pieces].tolist()


def test_bytes_that_are_never_text_are_the_only_ones_llama3_cannot_emit(vocabulary):
    llama = vocabulary("llama3")
    never = (llama.kinds == Kind.ORDINARY) & ~llama.emitted(np.arange(llama.size))
    found = {llama.content[i] for i in np.flatnonzero(never)}
    assert found == {bytes([byte]) for byte in NEVER_IN_UTF8}


@pytest.mark.parametrize(
    ("name", "never", "emitted"),
    [
        # Full-width digits come singly, vowel signs are no letters for the pattern, and the
        # normaliser composes the rest away.
        ("qwen", ["１０", "ที่"], ["1", " the", "\n\n"]),
        ("wordpiece", [" é"], [" the", "ing"]),
        # Its pieces are likelier than the whole.
        ("unigram", [" at"], [" the"]),
    ],
)
def test_tokens_that_the_pattern_or_the_model_splits(vocabulary, name, never, emitted):
    words = vocabulary(name)
    by_content = words.representatives
    assert not words.emitted(np.array([by_content[text.encode()] for text in never])).any()
    assert words.emitted(np.array([by_content[text.encode()] for text in emitted])).all()


def test_a_token_needs_merges_that_reach_it():
    words = handmade("a", "b", "c", "ab", "bc", "abc", merges=[("b", "c"), ("a", "bc")])
    reached = dict(zip(words.strings, words.emitted(np.arange(words.size)).tolist(), strict=True))
    assert reached == {"a": True, "b": True, "c": True, "ab": False, "bc": True, "abc": True}


def test_control_tokens_and_gaps_are_never_emitted(vocabulary):
    words = vocabulary("unigram")
    others = np.flatnonzero(words.kinds != Kind.ORDINARY)
    assert others.size and not words.emitted(others).any()


def test_added_text_is_emitted():
    words = handmade("</s>", "a", eos="</s>", markup=["<tool>"])
    assert words.emitted(np.array([2])).all()
