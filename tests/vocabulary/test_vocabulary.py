"""Bytes, kinds and roles of a vocabulary, against the tokenizer's own decoding."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from handmade import numbered, sentencepiece
from handmade import vocabulary as handmade
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from mergekit_omp.vocabulary import Kind, Vocabulary

FRAGMENTS = ["the", " cat", "123", "0", "don't", "\n", "  ", "\t", "é", "中文", "🙂", "ที่", "\x00"]
TEXT = st.text(max_size=30) | st.lists(st.sampled_from(FRAGMENTS)).map("".join)
LOSSLESS = ["byte_level", "sentencepiece_bpe", "unigram"]
PUBLISHED = ["llama3", "llama4", "qwen", "tekken", "mistral3"]


@pytest.mark.parametrize("name", LOSSLESS + PUBLISHED)
@settings(max_examples=40, deadline=None)
@given(text=TEXT)
def test_contents_of_a_text_are_its_bytes(tokenizer, vocabulary, name, text):
    real = tokenizer(name)
    content = vocabulary(name).content
    spelled = b"".join([content[i] for i in real.encode(text, add_special_tokens=False)]).decode()
    if name == "qwen":
        text = unicodedata.normalize("NFC", text)
    if name in ("sentencepiece_bpe", "unigram", "mistral3"):
        # SentencePiece cannot tell its own mark from a space, and may put one first.
        text = text.replace("▁", " ")
        assert spelled in (text, " " + text)
    else:
        assert spelled == text


@settings(max_examples=100, deadline=None)
@given(text=st.lists(st.sampled_from(["the", "Cat", "don't", "x,y", "ing", "!", "é", "12"])))
def test_wordpiece_contents_are_what_its_decoder_writes(tokenizer, vocabulary, text):
    real = tokenizer("wordpiece").backend_tokenizer
    encoding = real.encode(" ".join(text), add_special_tokens=False)
    spelled = b"".join([vocabulary("wordpiece").content[i] for i in encoding.ids]).decode()
    assert spelled.removeprefix(" ") == real.decoder.decode(encoding.tokens)


def test_wordpiece_marks_words_by_a_space(vocabulary):
    words = vocabulary("wordpiece")
    by_string = {string: words.content[i] for i, string in enumerate(words.strings)}
    assert by_string["the"] == b" the"
    assert by_string["##ing"] == b"ing"
    assert by_string["."] == b"."
    assert by_string["("] == b" ("


def test_byte_level_tokens_that_are_not_text_keep_their_bytes(vocabulary):
    llama = vocabulary("llama3")
    singles = {data for data in llama.content if data is not None and len(data) == 1}
    assert singles == {bytes([byte]) for byte in range(256)}


def test_roles_are_control_even_where_the_file_forgets_them():
    words = handmade("<unk>", "<s>", "</s>", "a", unk="<unk>", bos="<s>", eos="</s>")
    assert words.kinds.tolist() == [Kind.CONTROL] * 3 + [Kind.ORDINARY]
    assert words.content == [None, None, None, b"a"]
    assert words.roles == {"unk": 0, "bos": 1, "eos": 2}


def test_one_token_may_play_all_roles():
    words = handmade(
        "<|endoftext|>", "a", bos="<|endoftext|>", eos="<|endoftext|>", unk="<|endoftext|>"
    )
    assert words.kinds[0] == Kind.CONTROL
    assert words.roles == {"bos": 0, "eos": 0, "unk": 0}


def test_text_that_serves_as_padding_stays_text():
    words = handmade("</s>", "!", "a", eos="</s>", pad="!")
    assert words.kinds[1] == Kind.ORDINARY
    assert words.content[1] == b"!"
    assert words.roles["pad"] == 1


def test_added_text_stands_for_itself_or_for_the_models_own_token():
    words = Vocabulary.from_tokenizer(
        sentencepiece(numbered("</s>", "▁▁", "▁"), markup=["▁▁", "▁x"], eos="</s>"), "added"
    )
    # The first is the model's piece of two spaces; the second is literal text.
    assert words.content[1:] == [b"  ", b" ", "▁x".encode()]
    assert words.added.tolist() == [False, True, False, True]


def test_gaps_are_counted_but_are_no_tokens():
    words = Vocabulary.from_tokenizer(
        sentencepiece({"</s>": 0, "a": 3, "b": 5}, eos="</s>"), "gaps"
    )
    assert words.size == 6
    assert words.tokens == 3
    assert np.flatnonzero(words.kinds == Kind.GAP).tolist() == [1, 2, 4]
    assert [words.strings[i] for i in (1, 2, 4)] == [None] * 3


def test_without_a_decoder_the_other_components_tell():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    words = Vocabulary.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer), "bare")
    assert words.content[1:] == [b" a", b"b"]


def test_words_that_end_in_a_mark_end_in_a_space():
    model = models.BPE({"a": 0, "a</w>": 1}, [], end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.BPEDecoder()
    words = Vocabulary.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer), "suffix")
    assert words.content == [b"a", b"a "]


def test_fingerprints_tell_vocabularies_apart(tokenizer, vocabulary):
    again = Vocabulary.from_tokenizer(tokenizer("byte_level"), "another name")
    assert again.fingerprint == vocabulary("byte_level").fingerprint
    plain = handmade("</s>", "a", "b", eos="</s>")
    others = [
        handmade("</s>", "b", "a", eos="</s>"),
        handmade("</s>", "a", "b", bos="</s>"),
        handmade("</s>", "a", "b", eos="</s>", control=["b"]),
        handmade("</s>", "a", "b", eos="</s>", markup=["b"]),
        handmade("</s>", "ab", "", eos="</s>"),
    ]
    assert len({words.fingerprint for words in [plain, *others]}) == 6


def test_a_slow_tokenizer_is_refused_by_name():
    class SlowTokenizer:
        is_fast = False

    with pytest.raises(ValueError, match=r"my/model is a SlowTokenizer.*no fast form.*convert"):
        Vocabulary.from_tokenizer(SlowTokenizer(), "my/model")


def test_a_tokenizer_without_tokens_is_refused():
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(ValueError, match=r"tokenizer of my/model has no tokens"):
        Vocabulary.from_tokenizer(empty, "my/model")


def test_a_tokenizer_class_of_its_own_is_read_by_its_components(tokenizer, vocabulary, tmp_path):
    tokenizer("wordpiece").save_pretrained(tmp_path)
    bert = BertTokenizerFast.from_pretrained(tmp_path)
    assert Vocabulary.from_tokenizer(bert, "bert").content == vocabulary("wordpiece").content
