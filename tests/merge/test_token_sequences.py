"""`tokens:` takes a token's row from a sequence of the model's tokens, where markup needs several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merges import swap
from small_models import load, matrices, save_model


@pytest.fixture(scope="module")
def chat(real_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base whose turns begin with two tokens and a word, and a donor that has one token for it."""
    root = tmp_path_factory.mktemp("chat")
    ours, theirs = real_tokenizer("byte_level"), real_tokenizer("sentencepiece_bpe")
    ours.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    theirs.add_special_tokens({"additional_special_tokens": ["<|user|>"]})
    return (
        save_model(root / "base", ours, layers=1),
        save_model(root / "donor", theirs, layers=1, hidden=16, seed=1),
    )


def config(chat: tuple[Path, Path], sequence: str) -> dict[str, Any]:
    base, donor = chat
    entry = {"kind": "model_token", "model": str(base), "token": sequence}
    made = swap(base, donor, "mean")
    del made["tokenizer_source"]
    return made | {"tokenizer": {"source": str(donor), "tokens": {"<|user|>": {"source": entry}}}}


def test_the_row_is_the_mean_of_the_sequences_rows(
    chat: tuple[Path, Path], merge: Callable[..., Path]
) -> None:
    out = merge(config(chat, "<|im_start|>the value\n"))
    _, tokenizer = load(out)
    _, own = load(chat[0])
    pieces = own("<|im_start|>the value\n", add_special_tokens=False).input_ids
    assert len(pieces) > 2 and pieces[0] == own.convert_tokens_to_ids("<|im_start|>")
    at = tokenizer.convert_tokens_to_ids("<|user|>")
    for made, rows in zip(matrices(out), matrices(chat[0]), strict=True):
        assert torch.allclose(made[at], rows[pieces].mean(0), atol=1e-6)


def test_a_misspelt_token_is_no_sequence(
    chat: tuple[Path, Path], refusal: Callable[..., str]
) -> None:
    said = refusal(config(chat, "<|im_strat|>"))
    assert "'<|im_strat|>'" in said and "does not have" in said


def test_a_token_may_be_named_by_the_text_that_it_stands_for(
    chat: tuple[Path, Path], merge: Callable[..., Path]
) -> None:
    """A line break is `Ċ` in one vocabulary and `<0x0A>` in another."""
    out = merge(config(chat, "\n"))
    _, own = load(chat[0])
    at, source = load(out)[1].convert_tokens_to_ids("<|user|>"), own.convert_tokens_to_ids("Ċ")
    for made, rows in zip(matrices(out), matrices(chat[0]), strict=True):
        assert torch.equal(made[at], rows[source])
