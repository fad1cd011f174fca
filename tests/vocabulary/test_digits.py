"""Digit schemes, on published tokenizers and on patterns that are known."""

from __future__ import annotations

import random

import pytest
from handmade import vocabulary as handmade
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mergekit_omp.vocabulary import DigitScheme, digit_example, digit_mismatch, digit_scheme


@pytest.mark.parametrize(
    ("name", "scheme", "example"),
    [
        ("llama3", DigitScheme.THREES_FROM_LEFT, ["123", "456", "7"]),
        ("llama4", DigitScheme.THREES_FROM_LEFT, ["123", "456", "7"]),
        ("qwen", DigitScheme.SINGLE, list("1234567")),
        ("tekken", DigitScheme.SINGLE, list("1234567")),
        ("mistral3", DigitScheme.SINGLE, list("1234567")),
        ("byte_level", DigitScheme.THREES_FROM_LEFT, None),
        ("sentencepiece_bpe", DigitScheme.SINGLE, list("1234567")),
        ("wordpiece", DigitScheme.WHOLE_RUNS, None),
    ],
)
def test_known_tokenizers(vocabulary, name, scheme, example):
    assert digit_scheme(vocabulary(name)) == scheme
    if example is not None:
        assert digit_example(vocabulary(name)) == example


@pytest.mark.parametrize(
    ("pattern", "scheme"),
    [
        (r"\d", DigitScheme.SINGLE),
        (r"\d{1,2}", DigitScheme.TWOS_FROM_LEFT),
        (r"\d{1,2}(?=(?:\d{2})*\b)", DigitScheme.TWOS_FROM_RIGHT),
        (r"\d{1,3}", DigitScheme.THREES_FROM_LEFT),
        (r"\d{1,3}(?=(?:\d{3})*\b)", DigitScheme.THREES_FROM_RIGHT),
        (r"\d+", DigitScheme.WHOLE_RUNS),
    ],
)
@pytest.mark.parametrize("size", [300, 900])
def test_patterns(pattern, scheme, size):
    digits = random.Random(1)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=alphabet)
    numbers = [str(digits.randrange(10 ** digits.randrange(1, 12))) for _ in range(600)]
    tokenizer.train_from_iterator(numbers, trainer)
    assert digit_scheme(PreTrainedTokenizerFast(tokenizer_object=tokenizer)) == scheme


def test_a_vocabulary_without_digits():
    assert digit_scheme(handmade("a", "b")) == DigitScheme.NONE


def test_a_mismatch_names_both_and_what_they_read(vocabulary):
    qwen, llama = vocabulary("qwen"), vocabulary("llama3")
    said = digit_mismatch(qwen, llama)
    assert f"{qwen.name} reads 1234567 as 1 2 3 4 5 6 7 (single digits)" in said
    assert f"{llama.name} reads 1234567 as 123 456 7 (groups of three, left to right)" in said
    assert said != digit_mismatch(llama, qwen)


@pytest.mark.parametrize(
    ("one", "other"), [("qwen", "qwen"), ("qwen", "tekken"), ("llama3", "llama4")]
)
def test_no_mismatch_where_schemes_agree(vocabulary, one, other):
    assert digit_mismatch(vocabulary(one), vocabulary(other)) is None
