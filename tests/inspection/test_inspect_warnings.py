"""Warnings name the trouble that is there, and none that is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from merges import swap
from small_models import save_model
from tokenizers import Tokenizer, processors

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
)

Make = Callable[..., Path]


@pytest.fixture
def model(tmp_path: Path, real_tokenizer: Any) -> Make:
    """`model(name, tokenizer, edit, **settings)`: a small model whose tokenizer was edited."""

    def make(name: str, tokenizer: str, edit: Any = None, **settings: Any) -> Path:
        loaded = real_tokenizer(tokenizer)
        if edit is not None:
            edit(loaded)
        return save_model(tmp_path / name, loaded, **{"layers": 1, "hidden": 16, **settings})

    return make


@pytest.fixture
def warned(facts: Any) -> Callable[..., list[str]]:
    """The warnings of a swap."""

    def run(base: Path, donor: Path, **more: Any) -> list[str]:
        return facts(swap(base, donor, **{"parameters": {"k": 8}, **more}))["warnings"]

    return run


def one(warnings: list[str], *words: str) -> None:
    """Exactly one of the warnings holds the words."""
    assert len([w for w in warnings if all(word in w for word in words)]) == 1, warnings


def none(warnings: list[str], *words: str) -> None:
    assert not [w for w in warnings if any(word in w for word in words)], warnings


def set_roles(**roles: str | None) -> Any:
    def edit(tokenizer: Any) -> None:
        for role, token in roles.items():
            setattr(tokenizer, f"{role}_token", token)

    return edit


def test_nothing_is_said_of_a_pair_without_trouble(models: Any, warned: Any) -> None:
    settings = {"layers": 1, "hidden": 16}
    one_, other = (models(f"quiet{seed}", "byte_level", seed=seed, **settings) for seed in (1, 2))
    assert warned(one_, other) == []
    assert warned(one_, one_, tokenizer_source="base") == []
    assert (
        warned(one_, models("sp16", "sentencepiece_bpe", **settings), tokenizer_source="base") == []
    )


def test_digits(base: Path, donor: Path, models: Any, warned: Any) -> None:
    one(
        warned(base, donor),
        "cut in different ways",
        "single digits",
        "groups of three",
        "2506.06607",
    )
    alike = models("sp_again", "sentencepiece_bpe", seed=7, layers=1, hidden=16)
    none(warned(base, alike), "cut in different ways")


def test_an_eos_or_bos_that_is_not_there(model: Make, base: Path, warned: Any, facts: Any) -> None:
    mute = model("mute", "byte_level", set_roles(eos=None, bos=None))
    said = warned(base, mute)
    one(said, "'</s>' (eos)", "the output's tokenizer has no eos", "length limit")
    one(said, "'<s>' (bos)", "the output's tokenizer has no bos", "tokens: {'<s>': {source: ")
    kept = swap(base, mute) | {
        "tokenizer": {"source": str(mute), "tokens": {"<s>": {"source": str(base)}}}
    }
    del kept["tokenizer_source"]
    none(facts(kept)["warnings"], "has no bos")
    said = warned(mute, base)
    one(said, "The output's eos '</s>' matches no eos", "approximated", "tokens:")
    one(said, "The output's bos '<s>' matches no bos")


def test_an_eos_that_is_another_token_of_the_base(model: Make, warned: Any) -> None:
    def with_markup(tokenizer: Any) -> None:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})

    def ends_with_markup(tokenizer: Any) -> None:
        with_markup(tokenizer)
        tokenizer.eos_token = "<|im_end|>"

    plain = model("plain", "byte_level", with_markup)
    chat = model("chat", "byte_level", ends_with_markup)
    one(warned(plain, chat), "'<|end|>' (eos)", "the output's eos is '<|im_end|>'")


def test_padding_with_eos(model: Make, base: Path, warned: Any) -> None:
    padded = model("padded", "byte_level", set_roles(pad="<|end|>"))
    one(warned(base, padded), "pads with its eos, '<|end|>'")
    none(warned(padded, base), "pads with")


def test_a_bos_that_is_no_longer_put_in_front(model: Make, donor: Path, warned: Any) -> None:
    def put_bos(tokenizer: Any) -> None:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )

    prefixed = model("prefixed", "sentencepiece_bpe", put_bos)
    one(warned(prefixed, donor), "puts '<s>' before every text")
    none(warned(donor, prefixed), "before every text")


def test_chat_templates(model: Make, base: Path, warned: Any) -> None:
    def chatty(tokenizer: Any) -> None:
        markup = ["<|im_start|>", "<|im_end|>"]
        tokenizer.add_special_tokens({"additional_special_tokens": markup})
        tokenizer.chat_template = CHATML

    chat = model("chat", "byte_level", chatty)
    said = warned(base, chat)
    one(said, "The chat template uses '<|im_start|>', '<|im_end|>'", "approximated")
    none(said, "does not stop")
    said = warned(chat, base)
    one(said, "has a chat template", "the output will have none", "chat_template:")
    said = warned(chat, base, chat_template="chatml")
    none(said, "will have none")
    one(said, "writes '<|im_start|>', '<|im_end|>'", "cuts into pieces")
    one(said, "ends an answer with '<|im_end|>'", "does not stop")
    other = model("chat2", "byte_level", chatty, seed=3)
    none(warned(other, chat), "The chat template uses", "writes")


def test_texts_that_get_lost(models: Any, base: Path, warned: Any) -> None:
    settings = {"layers": 1, "hidden": 16}
    lower = models("lower", "wordpiece", **settings)
    said = warned(base, lower)
    one(said, "cannot spell", "Chinese", "[UNK]")
    one(said, "does not keep text as it is", "'The' comes back as 'the'")
    none(warned(lower, base), "cannot spell", "does not keep")


def test_more_tokens(base: Path, model: Make, warned: Any) -> None:
    def only_bytes(tokenizer: Any) -> None:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["model"]["merges"] = []
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))

    said = warned(base, model("bytes_alone", "byte_level", only_bytes))
    one(said, "in more tokens than", "English")
    # Rows of tokens that are no longer produced serve neither as anchors nor as copies.
    said = warned(model("bytes_base", "byte_level", only_bytes), base)
    one(said, "never produced by its own tokenizer")
    one(said, "Only ", "keep rows")


def test_ids_past_the_rows_and_a_k_that_is_too_large(
    real_tokenizer: Any, tmp_path: Path, donor: Path, warned: Any
) -> None:
    tokenizer = real_tokenizer("sentencepiece_bpe")
    short = save_model(tmp_path / "short", tokenizer, rows=1900, layers=1, hidden=16)
    said = warned(short, donor, parameters={"k": 64})
    one(said, "ids past the 1900 rows")
    one(said, "model.embed_tokens.weight", "`k: 64` is reduced to 48")
    none(warned(donor, short), "is reduced")


def test_few_anchors(tmp_path: Path, real_tokenizer: Any, base: Path, warned: Any) -> None:
    from tokenizers import models
    from transformers import PreTrainedTokenizerFast

    words = {f"qq{i}": i for i in range(200)} | {"a": 200, "b": 201, "[X]": 202}
    backend = Tokenizer(models.WordLevel(words, unk_token="[X]"))
    sparse = PreTrainedTokenizerFast(tokenizer_object=backend)
    donor = save_model(tmp_path / "sparse", sparse, layers=1, hidden=64)
    said = warned(base, donor)
    one(said, "model.embed_tokens.weight", "share only", "poorly")
    one(said, "Only", "keep rows")


def test_a_search_that_no_memory_serves(base: Path, donor: Path, facts: Any) -> None:
    told = facts(swap(base, donor, parameters={"k": 8, "memory": "1kB"}))
    one(told["warnings"], "model.embed_tokens.weight", "the merge will stop", "memory")
    assert told["plan"][0]["search"] is None


def test_a_tokenizer_that_cannot_spell_every_text(
    model: Make, warned: Any, real_tokenizer: Any, tmp_path: Path
) -> None:
    """One that was trained on a few texts has lost its tokens for single bytes."""
    texts = ["the value of an object", "return the name of a class"] * 4
    for name, lost in (("sentencepiece_bpe", True), ("byte_level", False)):
        trained = real_tokenizer(name).train_new_from_iterator(texts, vocab_size=300)
        donor = save_model(tmp_path / f"{name}-trained", trained, layers=1, hidden=16)
        said = warned(model(name, name), donor)
        (one if lost else none)(said, "can spell any text")
        if lost:
            one(said, "of the 256: characters that it has no token for become '<unk>'")
    # A base that cannot do it either has nothing to lose.
    none(
        warned(tmp_path / "sentencepiece_bpe-trained", model("wordpiece", "wordpiece")),
        "can spell any text",
    )
