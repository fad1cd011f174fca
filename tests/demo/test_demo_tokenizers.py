"""The two tokenizers have the properties for which they were made."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mergekit_omp.demo.corpus import CorpusSpec, standard_library_corpus
from mergekit_omp.demo.tokenizers import TokenizerStyle, train_tokenizer

SIZE = 1024
TRICKY = [
    "12 + 345 = 12345",
    "  two spaces, naïve “quotes”, 漢字 and 🙂",
    "def f(x):\n    return x\n\n\tend",
    "▁",
    "",
]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    corpus = standard_library_corpus(CorpusSpec(keep_every=24))
    return [document.text for document in corpus.train]


@pytest.fixture(scope="module")
def tokenizers(texts) -> dict[TokenizerStyle, PreTrainedTokenizerFast]:
    return {style: train_tokenizer(style, texts, SIZE) for style in TokenizerStyle}


@pytest.fixture(params=list(TokenizerStyle), ids=lambda style: style.value)
def tokenizer(request, tokenizers) -> PreTrainedTokenizerFast:
    return tokenizers[request.param]


def pieces(tokenizer, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))


def test_has_as_many_tokens_as_asked_for_without_gaps(tokenizer):
    assert sorted(tokenizer.get_vocab().values()) == list(range(SIZE))


@pytest.mark.parametrize("text", TRICKY)
def test_nothing_is_lost(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.unk_token_id not in ids
    # SentencePiece writes spaces as `▁`, so that character itself cannot come back.
    expected = text if tokenizer.unk_token is None else text.replace("▁", " ")
    assert tokenizer.decode(ids) == expected


def test_begins_with_bos(tokenizer):
    ids = tokenizer.encode("a text")
    assert ids[0] == tokenizer.bos_token_id
    assert ids[1:] == tokenizer.encode("a text", add_special_tokens=False)


def test_roles_are_different_tokens(tokenizer):
    roles = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert len(roles) == 3
    assert None not in roles


def test_chat_template_renders_every_message(tokenizer):
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert said == f"{tokenizer.bos_token}User: Hello\nAssistant: Hi\nAssistant:"


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.chat_template == tokenizer.chat_template
    for text in TRICKY:
        assert loaded.encode(text) == tokenizer.encode(text)


def test_training_twice_gives_the_same(texts, tokenizers):
    for style, tokenizer in tokenizers.items():
        again = train_tokenizer(style, texts, SIZE)
        assert json.loads(again.backend_tokenizer.to_str()) == json.loads(
            tokenizer.backend_tokenizer.to_str()
        )


def test_digits_are_grouped_in_one_and_single_in_the_other(tokenizers):
    byte_level = tokenizers[TokenizerStyle.BYTE_LEVEL]
    assert all(len(piece) <= 3 for piece in pieces(byte_level, "1234567"))
    grouped = [token for token in byte_level.get_vocab() if token.isdigit() and len(token) > 1]
    assert len(grouped) > 20
    sentencepiece = tokenizers[TokenizerStyle.SENTENCEPIECE]
    assert pieces(sentencepiece, "1234567")[1:] == list("1234567")
    digits = "0123456789"
    assert not [
        token
        for token in sentencepiece.get_vocab()
        if len(token) > 1 and set(token) & set(digits) and not token.startswith("<0x")
    ]


def test_spaces_are_spelled_differently(tokenizers):
    assert pieces(tokenizers[TokenizerStyle.BYTE_LEVEL], "the the") == ["the", "Ġthe"]
    # A dummy prefix: the first word is as any other.
    assert pieces(tokenizers[TokenizerStyle.SENTENCEPIECE], "the the") == ["▁the", "▁the"]


def test_rare_characters_fall_back_to_bytes(tokenizers):
    assert pieces(tokenizers[TokenizerStyle.SENTENCEPIECE], "漢")[1:] == [
        "<0xE6>",
        "<0xBC>",
        "<0xA2>",
    ]
    assert pieces(tokenizers[TokenizerStyle.SENTENCEPIECE], "a\nb")[1] == "<0x0A>"


def test_their_strings_differ_more_than_their_bytes(tokenizers):
    byte_level = set(tokenizers[TokenizerStyle.BYTE_LEVEL].get_vocab())
    sentencepiece = set(tokenizers[TokenizerStyle.SENTENCEPIECE].get_vocab())
    as_text = {token.replace("Ġ", " ") for token in byte_level}
    assert len(as_text & {token.replace("▁", " ") for token in sentencepiece}) > 1.5 * len(
        byte_level & sentencepiece
    )


def test_a_vocabulary_too_small_for_all_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size is 300"):
        train_tokenizer(TokenizerStyle.BYTE_LEVEL, ["text"], 300)
