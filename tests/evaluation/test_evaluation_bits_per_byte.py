"""Bits per byte against computations by hand, and against itself cut in other ways."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mergekit_omp.evaluation import bits_per_byte

CHARACTERS = "abcdefgh <>/sé"
TEXTS = ["abc", "a bad cab fed", "", "hhhhhhhhhhhhhhhhhhhhhhhhhhh", "é", "decade face bead " * 3]


def character_tokenizer(order: str = CHARACTERS, **roles: str) -> PreTrainedTokenizerFast:
    """One token for each character, after the control tokens."""
    names = ["<unk>", "<s>", "</s>", *order]
    tokenizer = Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **roles)


def random_model(vocab_size: int, seed: int = 0) -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=64,
                initializer_range=0.4,
            )
        ).eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return character_tokenizer(bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def model(tokenizer) -> LlamaForCausalLM:
    return random_model(len(tokenizer))


def bits_of_last(model, ids: list[int]) -> float:
    """-log2 p of the last id after all the others, in float64."""
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]])).logits[0, -1].double()
    return -(torch.log_softmax(logits, 0)[ids[-1]].item()) / math.log(2)


def characters_as_ids(text: str) -> list[int]:
    return [3 + CHARACTERS.index(character) for character in text]


def test_is_the_sum_over_all_tokens_by_the_bytes(model, tokenizer):
    score = bits_per_byte(model, tokenizer, TEXTS)
    for text, document in zip(TEXTS, score.documents, strict=True):
        ids = [1, *characters_as_ids(text)]
        by_hand = sum(bits_of_last(model, ids[: end + 1]) for end in range(1, len(ids)))
        assert document.bits == pytest.approx(by_hand, rel=1e-5)
        assert document.bytes == len(text.encode())
        assert document.tokens == len(text)
    assert score.bits_per_byte == pytest.approx(
        sum(document.bits for document in score.documents) / sum(len(t.encode()) for t in TEXTS)
    )


def test_stride_of_one_gives_every_token_the_whole_context(model, tokenizer):
    text, context = TEXTS[-1], 7
    ids = [1, *characters_as_ids(text)]
    by_hand = sum(
        bits_of_last(model, ids[max(0, end - context) : end + 1]) for end in range(1, len(ids))
    )
    score = bits_per_byte(model, tokenizer, [text], context=context, stride=1)
    assert score.bits == pytest.approx(by_hand, rel=1e-5)


def test_windows_overlap_by_context_less_stride(model, tokenizer):
    text, context, stride = TEXTS[-1], 10, 4
    ids = [1, *characters_as_ids(text)]
    by_hand, scored = 0.0, 0
    while scored < len(text):
        last = min(len(text), context if scored == 0 else scored + stride)
        start = max(0, last - context)
        by_hand += sum(
            bits_of_last(model, ids[start : end + 1]) for end in range(scored + 1, last + 1)
        )
        scored = last
    score = bits_per_byte(model, tokenizer, [text], context=context, stride=stride)
    assert score.bits == pytest.approx(by_hand, rel=1e-5)


@settings(max_examples=10, deadline=None)
@given(
    batch_size=st.integers(1, 9),
    order=st.permutations(range(len(TEXTS))),
    context=st.integers(1, 64),
)
def test_batches_and_order_of_documents_change_nothing(batch_size, order, context):
    tokenizer = character_tokenizer(bos_token="<s>")
    model = random_model(len(tokenizer))
    one_by_one = [
        bits_per_byte(model, tokenizer, [text], context=context, batch_size=1).bits if text else 0.0
        for text in TEXTS
    ]
    score = bits_per_byte(
        model, tokenizer, [TEXTS[i] for i in order], context=context, batch_size=batch_size
    )
    assert [document.bits for document in score.documents] == pytest.approx(
        [one_by_one[i] for i in order], rel=1e-5, abs=1e-5
    )


def test_does_not_depend_on_how_tokens_are_numbered(model, tokenizer):
    renumbered = character_tokenizer(CHARACTERS[::-1], bos_token="<s>", eos_token="</s>")
    rows = [0, 1, 2, *range(2 + len(CHARACTERS), 2, -1)]
    other = random_model(len(renumbered), seed=1)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight[rows])
        other.get_output_embeddings().weight.copy_(model.get_output_embeddings().weight[rows])
    assert bits_per_byte(other, renumbered, TEXTS).bits_per_byte == pytest.approx(
        bits_per_byte(model, tokenizer, TEXTS).bits_per_byte, rel=1e-5
    )


def uniform_model(rows: int) -> LlamaForCausalLM:
    """A model that finds every token equally likely."""
    model = random_model(rows)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    return model


def test_two_tokenizers_agree_where_their_codes_have_one_length():
    # Pairs of letters from 256 tokens and letters from 16: 8 bits for 2 bytes, 4 for 1.
    letters = "abcdefghijklmn"
    pairs = [a + b for a in letters for b in letters]
    by_letter = Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(["<s>", *letters])}, unk_token="<s>")
    )
    by_letter.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    by_pair = Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(["<s>", *pairs])}, unk_token="<s>")
    )
    by_pair.pre_tokenizer = pre_tokenizers.Split(Regex(".."), behavior="isolated")
    texts = ["abcdef", "nmlkjihg"]
    found = [
        bits_per_byte(
            uniform_model(rows),
            PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>"),
            texts,
        ).bits_per_byte
        for tokenizer, rows in ((by_letter, 16), (by_pair, 256))
    ]
    assert found == pytest.approx([4.0, 4.0], rel=1e-6)


def test_a_dummy_prefix_adds_no_byte():
    pieces = ["<s>", "▁ab", "▁", "c", "a", "b"]
    backend = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(["<s>", "▁", "c", "a", "b", "▁a", "▁ab"])},
            [("▁", "a"), ("▁a", "b")],
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    rows = len(pieces) + 2
    score = bits_per_byte(uniform_model(rows), tokenizer, ["ab c"])
    assert (score.tokens, score.bytes) == (3, 4)
    assert score.bits_per_byte == pytest.approx(3 * math.log2(rows) / 4)


def test_without_bos_a_document_begins_after_eos(model, tokenizer):
    score = bits_per_byte(model, character_tokenizer(eos_token="</s>"), ["abc"])
    ids = [2, *characters_as_ids("abc")]
    by_hand = sum(bits_of_last(model, ids[: end + 1]) for end in (1, 2, 3))
    assert score.bits == pytest.approx(by_hand, rel=1e-5)
    assert score.bits != pytest.approx(bits_per_byte(model, tokenizer, ["abc"]).bits, rel=1e-3)


def test_without_bos_and_eos_the_first_token_is_charged_as_unknown(model):
    score = bits_per_byte(model, character_tokenizer(), ["abc", ""])
    ids = characters_as_ids("abc")
    rows = model.config.vocab_size
    by_hand = math.log2(rows) + sum(bits_of_last(model, ids[: end + 1]) for end in (1, 2))
    assert [document.bits for document in score.documents] == pytest.approx(
        [by_hand, 0.0], rel=1e-5
    )


def test_text_that_spells_a_control_token_is_text(model, tokenizer):
    text = "a</s>b"
    score = bits_per_byte(model, tokenizer, [text])
    assert score.tokens == len(text)


def test_unknown_tokens_are_counted_in_a_warning(model, tokenizer, caplog):
    bits_per_byte(model, tokenizer, ["abc"])
    assert not caplog.records
    bits_per_byte(model, tokenizer, ["aZbY"])
    assert "2 tokens" in caplog.text
    assert "<unk>" in caplog.text


def test_leaves_the_model_in_its_mode(tokenizer):
    model = random_model(len(tokenizer)).train()
    bits_per_byte(model, tokenizer, ["abc"])
    assert model.training


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_runs_where_the_model_is(model, tokenizer):
    there = random_model(len(tokenizer)).cuda()
    assert bits_per_byte(there, tokenizer, TEXTS).bits == pytest.approx(
        bits_per_byte(model, tokenizer, TEXTS).bits, rel=1e-4
    )


@pytest.mark.parametrize(
    ("documents", "options", "error", "message"),
    [
        ("abc", {}, TypeError, "one string"),
        ([], {}, ValueError, "no text"),
        (["", ""], {}, ValueError, "no text"),
        (["abc"], {"context": 0}, ValueError, "context is 0"),
        (["abc"], {"context": 65}, ValueError, "from 1 to 64"),
        (["abc"], {"context": 8, "stride": 9}, ValueError, "stride is 9"),
        (["abc"], {"context": 8, "stride": 0}, ValueError, "stride is 0"),
        (["abc"], {"batch_size": 0}, ValueError, "batch_size is 0"),
    ],
)
def test_bad_arguments(model, tokenizer, documents, options, error, message):
    with pytest.raises(error, match=message):
        bits_per_byte(model, tokenizer, documents, **options)


def test_a_tokenizer_of_another_model_is_named(tokenizer):
    with pytest.raises(ValueError, match=r"gives id 16 and the model has 8 rows"):
        bits_per_byte(random_model(8), tokenizer, ["é"])
