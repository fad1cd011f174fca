"""What is said of hypernetworks whose files are not right, or not for a base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_hypernetworks import change_tokenizer
from small_hypernetworks import ORACLES, changed, published
from torch import Tensor

from mergekit_omp.approximation import Part
from mergekit_omp.approximation.hypernetwork.opened import BaseFacts, OpenedHypernetwork
from mergekit_omp.approximation.zett import Zett


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("untied", {"model_type": "roberta"}, "model_type must be 'zett_hypernetwork'.*'roberta'"),
        ("untied", {"hn_model_type": "t5"}, "hn_model_type must be 'roberta'.*found 't5'"),
        ("untied", {"hn_embed_target_priors": True}, "hn_embed_target_priors must be false.*True"),
        ("untied", {"hn_add_inter_token_attention": True}, "hn_add_inter_token_attention must be"),
        ("untied", {"hn_concat_last_hidden_state": True}, "hn_concat_last_hidden_state must be"),
        ("untied", {"hn_language_adapter_bottleneck_dim": 8}, "bottleneck_dim must be .* found 8"),
        (
            "untied",
            {"hn_embed_using_source_embeddings": None},
            "hn_embed_using_source_embeddings must be true; found no such key",
        ),
        ("untied", {"original_vocab_size": None}, "original_vocab_size must be a whole number"),
        ("untied", {"hn_hidden_size": "wide"}, "hn_hidden_size must be a whole number.*'wide'"),
        ("untied", {"hn_n_layers": 0}, "hn_n_layers must be .* at least 1; found 0"),
        ("untied", {"hn_n_layers": 4}, "expected a tensor model.encoder.layer.3.*found none"),
        ("untied", {"hn_num_attention_heads": 5}, "hn_num_attention_heads must be a divisor.* 5"),
        ("untied", {"hn_single_head": "yes"}, "hn_single_head must be true or false; found 'yes'"),
        ("untied", {"hn_single_head": True}, r"output_projection.1.weight must be of shape \[64"),
        ("untied", {"hn_intermediate_size": 63}, r"dense1.weight must be of shape \[63, 32\]"),
        ("untied", {"hn_n_extra_tokens": 8}, r"fallback_embeddings.weight must be .*\[8, 64\]"),
        ("untied", {"n_embd": 16}, r"must be of shape .*; found \["),
        ("tied_language", {"langs": None}, "langs must be a list of languages"),
        ("tied_language", {"langs": ["en"]}, r"lang_embeddings.weight must be of shape \[1, 48\]"),
        ("single_head", {"hn_predict_bias": None}, "expected a tensor bias_projection.weight"),
        ("single_head", {"hn_rescale_embeddings": True}, "expected a tensor in_scaler.w"),
        ("single_head", {"hn_surface_maxlen": None}, None),
        ("single_head", {"hn_surface_maxlen": 17}, r"position_embeddings.*or more rows"),
    ],
)
def test_a_config_that_is_not_right(
    name: str, keys: dict[str, Any], message: str | None, folder: Path, tmp_path: Path
) -> None:
    path = changed(published(folder, name), tmp_path / "changed", config=keys)
    language = "en" if name == "tied_language" else None
    if message is None:
        assert OpenedHypernetwork.open(str(path), language).config.longest == 16
        return
    with pytest.raises(ValueError, match=message) as error:
        OpenedHypernetwork.open(str(path), language)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "language", "message"),
    [
        ("tied_language", None, "needs a `language`: write one of en, de"),
        ("tied_language", "fr", "has no language 'fr': write one of en, de"),
        ("untied", "en", "has no languages: leave `language: en` out"),
    ],
)
def test_languages(name: str, language: str | None, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        OpenedHypernetwork.open(str(published(folder, name)), language)


def test_a_language_that_yaml_took_for_something_else() -> None:
    with pytest.raises(ValueError, match="False is not text: write it in quotes"):
        Zett(hypernetwork="a/b", language=False)


def _write(file: str, content: str | bytes) -> Callable[[Path], Any]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda path: (path / file).write_bytes(data)


def _only_pickled(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "config.json").unlink(), "expected a file config.json; found"),
        (lambda path: (path / "tokenizer.json").unlink(), "expected a file tokenizer.json; found"),
        (
            _only_pickled,
            "expected a file model.safetensors; found .*pytorch_model.bin.*safetensors",
        ),
        (_write("config.json", "{"), "config.json of .*: expected JSON; found"),
        (_write("config.json", "[1]"), "config.json of .*: expected an object; found a list"),
        (_write("config.json", b"\xff\xfe\x00"), "config.json of .* cannot be read"),
        (_write("tokenizer.json", "no JSON"), "tokenizer.json of .*: expected a tokenizer in JSON"),
        (
            _write("tokenizer.json", '{"model": 1}'),
            "tokenizer.json of .*: expected a fast tokenizer",
        ),
        (_write("model.safetensors", b"\x10" * 50), "model.safetensors of .* cannot be read"),
        (_write("model.safetensors", b""), "model.safetensors of .* cannot be read"),
    ],
)
def test_files_that_are_not_right(
    spoil: Callable[[Path], Any], message: str, folder: Path, tmp_path: Path
) -> None:
    path = changed(published(folder, "untied"), tmp_path / "changed")
    spoil(path)
    with pytest.raises(ValueError, match=message):
        OpenedHypernetwork.open(str(path), None)


def _as_integers(weights: dict[str, Tensor]) -> None:
    weights["bias_projection.weight"] = torch.ones((1, 32), dtype=torch.int8)


def _with(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], Any]:
    return lambda weights: weights.update({name: change(weights[name]).contiguous()})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda w: w.pop("out_scaler.b"), r"expected a tensor out_scaler.b of shape \[1, 32\]"),
        (_with("input_projection.0.weight", lambda t: t.T), r"\[32, 64\]; found \[64, 32\]"),
        (_as_integers, "bias_projection.weight must hold floating-point numbers .* found I8"),
        (
            _with("scaler.w", lambda t: t / torch.tensor([0.0] + [1.0] * 31)),
            "expected finite numbers in scaler.w; found 1 of 32 that are not",
        ),
        (
            _with("model.encoder.layer.1.output.dense.weight", lambda t: t * torch.nan),
            "expected finite numbers in model.encoder.layer.1.output.dense.weight",
        ),
    ],
)
def test_weights_that_are_not_right(
    weights: Callable[[dict[str, Tensor]], Any], message: str, folder: Path, tmp_path: Path
) -> None:
    path = changed(published(folder, "untied"), tmp_path / "changed", weights=weights)
    with pytest.raises(ValueError, match=message) as error:
        OpenedHypernetwork.open(str(path), None).check_weights()
    assert str(error.value).startswith(f"model.safetensors of the hypernetwork {path}")


def _facts(**changes: Any) -> BaseFacts:
    tokenizer = json.loads((ORACLES / "base_tokenizer" / "tokenizer.json").read_text())
    strings = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    content: list[bytes | None] = [
        bytes([int(s[3:5], 16)]) if s.startswith("<0x") else s.replace("▁", " ").encode()
        for s in strings
    ]
    content[:3] = [None] * 3
    shapes = {Part.INPUT: (700, 32), Part.HEAD: (700, 32)}
    facts = {"name": "the/base", "strings": strings, "content": content, "shapes": shapes}
    return BaseFacts(**{**facts, **changes})


def test_which_bases_it_is_for(folder: Path) -> None:
    opened = OpenedHypernetwork.open(str(published(folder, "untied")), None)
    facts = _facts()
    opened.check_base(facts)
    # A fine-tune with tokens of its own, whose rows are padded.
    more = {"strings": [*facts.strings, "<new>"], "content": [*facts.content, b"<new>"]}
    opened.check_base(_facts(**more, shapes=dict.fromkeys(facts.shapes, (768, 32))))
    with pytest.raises(ValueError, match="models whose head is a matrix of its own; the/base has"):
        opened.check_base(_facts(shapes={Part.INPUT: (700, 32)}))
    with pytest.raises(
        ValueError, match=r"n_embd must be the length of a row of .*\(48\); found 32"
    ):
        opened.check_base(_facts(shapes=dict.fromkeys(facts.shapes, (700, 48))))
    with pytest.raises(
        ValueError, match=r"original_vocab_size must be at most .*\(699\); found 700"
    ):
        opened.check_base(_facts(shapes=dict.fromkeys(facts.shapes, (699, 32))))
    single = OpenedHypernetwork.open(str(published(folder, "tied_language")), "en")
    with pytest.raises(ValueError, match="serves as the head too; the/base has a head of its own"):
        single.check_base(facts)


def test_a_vocabulary_that_is_not_the_bases_names_the_first_token_that_differs(
    folder: Path,
) -> None:
    opened = OpenedHypernetwork.open(str(published(folder, "untied")), None)
    facts = _facts()
    strings, content = list(facts.strings), list(facts.content)
    for i in (650, 400):
        strings[i], content[i] = f"other{i}", f"other{i}".encode()
    with pytest.raises(ValueError, match="expected the base's token 'other400' at id 400; found"):
        opened.check_base(_facts(strings=strings, content=content))


def test_a_vocabulary_without_some_byte(folder: Path, tmp_path: Path) -> None:
    path = changed(published(folder, "untied"), tmp_path / "changed")
    change_tokenizer(path, lambda model: model["vocab"].pop("ÿ"))
    with pytest.raises(ValueError, match=r"each of the 256 bytes.*none for 1 of them \(0xFF\)"):
        OpenedHypernetwork.open(str(path), None)
