"""Segmentation of byte strings as the continuation of a text."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, normalizers

from mergekit_omp.vocabulary import Kind, Vocabulary

NAMES = ["byte_level", "sentencepiece_bpe", "unigram", "llama3", "mistral3"]


def spell(words, ids):
    return b"".join([words.content[i] for i in ids])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(piece=st.binary(max_size=12) | st.text(max_size=12).map(str.encode))
def test_pieces_spell_the_bytes_and_nothing_before_them(vocabulary, name, piece):
    words = vocabulary(name)
    expected = piece if name in ("byte_level", "llama3") else piece.replace("▁".encode(), b" ")
    assert spell(words, words.segment([piece])[0]) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [b"<s>", b"a</s> b<unk>", b"<|end|>", b"<|end_of_text|>"])
def test_control_tokens_are_spelled_as_text(vocabulary, name, text):
    words = vocabulary(name)
    ids = words.segment([text])[0]
    assert spell(words, ids) == text
    assert all(words.kinds[i] == Kind.ORDINARY for i in ids)


def test_text_in_a_text_is_segmented_as_the_tokenizer_does(tokenizer, vocabulary):
    for name in NAMES:
        real = tokenizer(name).encode("a the statement of", add_special_tokens=False)
        words = vocabulary(name)
        whole = words.segment([b" a the statement of", b"a the statement of"])
        assert real in whole


def test_wordpiece_continues_a_word_unless_a_space_comes_first(vocabulary):
    words = vocabulary("wordpiece")
    texts = [b" the", b"ing", b"ing the", b".", b" ."]
    strings = [[words.strings[i] for i in ids] for ids in words.segment(texts)]
    assert strings == [["the"], ["##ing"], ["##ing", "the"], ["."], ["."]]


def test_wordpiece_goes_on_with_a_word_where_its_normalizer_takes_the_space_away(tokenizer):
    changed = copy.deepcopy(tokenizer("wordpiece"))
    backend = changed.backend_tokenizer
    backend.normalizer = normalizers.Replace(Regex(" +(?=ing)"), "")
    words = Vocabulary.from_tokenizer(changed, "changed")
    strings = [[words.strings[i] for i in ids] for ids in words.segment([b" ing", b" the"])]
    assert strings == [["##ing"], ["the"]]


def test_what_cannot_be_spelled_is_left_out(vocabulary):
    assert vocabulary("wordpiece").segment([b"\xff", "\N{SNOWMAN}".encode()]) == [[], []]


def test_nothing_is_segmented_into_nothing(vocabulary):
    assert vocabulary("mistral3").segment([]) == []
    assert vocabulary("mistral3").segment([b""]) == [[]]
