"""Several vocabularies in one merge: unions, a model of the merge as source, the base's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mergekit.common import ModelReference
from mergekit.options import MergeOptions
from mergekit.tokenizer.build import build_union_tokenizer
from merges import swap
from merging import record, tensors
from safetensors.torch import save_file
from small_models import load, save_model

from mergekit_omp.models.union import union_tokenizer

K = {"k": 4}
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def sp(models: Any) -> list[Path]:
    """A base and a fine-tune of it."""
    return [models(f"sp_{s}", "sentencepiece_bpe", seed=s, layers=1, hidden=16) for s in (0, 5)]


@pytest.fixture(scope="module")
def code(models: Any) -> Path:
    return models("bytes", "byte_level", hidden=16, layers=1, seed=1)


@pytest.fixture(scope="module")
def words(models: Any) -> Path:
    return models("words", "wordpiece", hidden=16, layers=1, seed=2)


def weighed(
    weights: dict[Path, float], source: Path | str, method: str = "omp+linear", **more: Any
) -> dict[str, Any]:
    """A weighted sum: with the weights 1 and 0 it is one model, aligned."""
    return {
        "merge_method": method,
        "models": [{"model": str(p), "parameters": {"weight": w}} for p, w in weights.items()],
        "tokenizer_source": str(source),
        "parameters": K,
        "dtype": "float32",
        **more,
    }


def strings(path: Path) -> dict[str, int]:
    vocabulary: dict[str, int] = transformers.AutoTokenizer.from_pretrained(path).get_vocab()
    return vocabulary


def added(tokenizer: Any) -> dict[str, Any]:
    return {t.content: t for t in tokenizer.added_tokens_decoder.values()}


@pytest.mark.parametrize("other", ["byte_level", "wordpiece"])
def test_the_union_has_the_tokens_and_settings_of_mergekits_own(
    other: str, real_tokenizer: Any, models: Any
) -> None:
    loaded, references = {}, []
    for name in ("sentencepiece_bpe", other):
        path = models(name, name, hidden=16, layers=1)
        references.append(ModelReference.model_validate(str(path)))
        loaded[references[-1]] = real_tokenizer(name)
    ours = union_tokenizer(references[0], loaded, MergeOptions())
    theirs = build_union_tokenizer(loaded[references[0]], loaded)
    assert set(ours.tokenizer.get_vocab()) == set(theirs.get_vocab())
    assert added(ours.tokenizer) == added(theirs)
    base = loaded[references[0]].get_vocab()
    assert base.items() <= ours.tokenizer.get_vocab().items(), "the base's ids stay"


def test_published_vocabularies_unite(real_tokenizer: Any) -> None:
    """110 thousand shared tokens, 42 thousand new ones: seconds, where one at a time takes hours."""
    loaded = {
        ModelReference.model_validate(name): real_tokenizer(name) for name in ("llama3", "qwen")
    }
    first, second = loaded.values()
    union = union_tokenizer(next(iter(loaded)), loaded, MergeOptions())
    held = union.tokenizer.get_vocab()
    assert held.keys() == first.get_vocab().keys() | second.get_vocab().keys()
    assert first.get_vocab().items() <= held.items()
    assert sorted(held.values()) == list(range(len(held)))
    assert len(union.gained) > 40_000


def aligned(
    merge: Any, models: list[Path], source: Path | str
) -> tuple[Path, dict[Path, torch.Tensor]]:
    """A sum of models: an output, and each model's aligned input embedding, its weight 1 alone."""
    outs = {
        model: merge(weighed(dict.fromkeys(models, 0.0) | {model: 1.0}, source), f"only_{i}")
        for i, model in enumerate(models)
    }
    return outs[models[0]], {model: tensors(out)[EMBEDDING] for model, out in outs.items()}


def test_each_model_gets_what_it_lacks_in_its_own_space(models: Any, merge: Any) -> None:
    order = [
        models(f"tied_{kind}", kind, hidden=16, layers=1, tied=True, seed=seed)
        for seed, kind in enumerate(("sentencepiece_bpe", "byte_level", "wordpiece"))
    ]
    out, seen = aligned(merge, order, "union")
    ids = strings(out)
    vocabularies = [strings(path) for path in order]
    for path, own in zip(order, vocabularies, strict=True):
        held = tensors(path)[EMBEDDING]
        others = set().union(*(v for v in vocabularies if v is not own))
        # A byte token beside a token of the same byte is never produced, and is nobody's.
        alone = sorted(t for t in own if t not in others and not t.startswith("<0x"))
        assert len(alone) > 500
        for token in alone:
            assert torch.equal(seen[path][ids[token]], held[own[token]]), token
        empty = {i for i, norm in enumerate(seen[path].norm(dim=1).tolist()) if norm == 0}
        # A fresh model's row of the padding token is zero.
        assert empty <= {i for token, i in ids.items() if "pad" in token.lower()}
    # In the config's order: the first that owns a token serves it.
    donors = {m["model"]: m["tensors"][0]["donors"] for m in record(out)["models"]}
    names = [path.name for path in order]
    for name in names:
        assert [d["model"] for d in donors[name]] == [other for other in names if other != name]


def test_a_fine_tune_and_its_base_get_the_same_coefficients(
    models: Any, tmp_path: Path, merge: Any
) -> None:
    """With rows twice as long, what is approximated is twice as long; a zero row is no anchor."""
    base = models("tied", "sentencepiece_bpe", hidden=16, layers=1, tied=True)
    code = models("tied_code", "byte_level", hidden=16, layers=1, tied=True)
    tuned = shutil.copytree(base, tmp_path / "tuned")
    held = tensors(base)
    held[EMBEDDING] = held[EMBEDDING] * 2
    held[EMBEDDING][900:1100] = 0
    save_file(held, tuned / "model.safetensors", metadata={"format": "pt"})
    out, seen = aligned(merge, [base, tuned, code], code)
    of_base, of_tuned = seen[base], seen[tuned]
    (entry,) = next(m["tensors"] for m in record(out)["models"] if m["model"] == base.name)
    same = ((of_base * 2 - of_tuned).abs() < 1e-5).all(dim=1)
    zero = (of_tuned == 0).all(dim=1)
    assert 50 < zero.sum() < 200
    assert (same | zero).all(), "all rows but the copies of the zero ones"
    assert entry["counts"]["approximated"] > 100


def test_the_tokenizer_of_a_model_of_the_merge(sp: list[Path], code: Path, merge: Any) -> None:
    order = {sp[0]: 0.0, code: 1.0}
    out = merge(weighed(order, code))
    assert strings(out) == strings(code)
    assert torch.equal(tensors(out)[EMBEDDING], tensors(code)[EMBEDDING])
    entries = {m["model"]: m["tensors"][0] for m in record(out)["models"]}
    assert [d["model"] for d in entries[sp[0].name]["donors"]] == [code.name]
    assert entries[code.name]["counts"]["approximated"] == 0


def test_the_bases_tokenizer(sp: list[Path], code: Path, merge: Any) -> None:
    config = weighed({code: 1.0}, "base", base_model=str(sp[0]), method="omp+task_arithmetic")
    out = merge(config)
    assert strings(out) == strings(sp[0])
    entries = {m["model"]: m["tensors"][0] for m in record(out)["models"]}
    assert [d["model"] for d in entries[code.name]["donors"]] == [sp[0].name]
    load(out)


def test_a_donor_outside_the_merge_serves_all(
    sp: list[Path], code: Path, words: Path, merge: Any
) -> None:
    out = merge(weighed({sp[0]: 0.5, code: 0.5}, words))
    assert strings(out) == strings(words)
    for model in record(out)["models"]:
        assert {d["model"] for e in model["tensors"] for d in e["donors"]} == {words.name}


def test_a_union_warns_of_what_becomes_an_added_token(
    sp: list[Path], code: Path, merge: Any
) -> None:
    out = merge(weighed({sp[0]: 0.5, code: 0.5}, "union", method="zero+linear", parameters={}))
    (warning,) = [w for w in record(out)["warnings"] if "added tokens" in w]
    count = len(strings(code).keys() - strings(sp[0]).keys()) - 4  # its control tokens
    assert f"turns {count} ordinary tokens" in warning
    assert "matched in a text before everything else" in warning
    assert f"`tokenizer_source: {sp[0].name}`" in warning


def test_slices_of_different_vocabularies(sp: list[Path], code: Path, merge: Any) -> None:
    """The input embedding is the first model's and the head the last one's, each aligned."""
    layers = [{"sources": [{"model": str(path), "layer_range": [0, 1]}]} for path in (sp[0], code)]
    config = {"slices": layers, "dtype": "float32", "parameters": K}
    out = merge({**config, "merge_method": "omp", "tokenizer_source": str(code)})
    held = tensors(out)
    assert torch.equal(held["lm_head.weight"], tensors(code)["lm_head.weight"])
    alone = tensors(merge(swap(sp[0], code, parameters=K), "alone"))
    assert torch.equal(held[EMBEDDING], alone[EMBEDDING])
    load(out)


# What cannot be.


def test_slices_of_different_vocabularies_without_a_tokenizer(
    sp: list[Path], code: Path, refusal: Any
) -> None:
    layers = [{"sources": [{"model": str(path), "layer_range": [0, 1]}]} for path in (sp[0], code)]
    said = refusal({"merge_method": "omp", "slices": layers, "dtype": "float32"})
    assert "Add `tokenizer_source:`" in said


def test_one_token_with_two_roles(
    code: Path, real_tokenizer: Any, tmp_path: Path, refusal: Any
) -> None:
    turned = real_tokenizer("byte_level")
    turned.bos_token, turned.eos_token = "<|end|>", "<|begin|>"
    other = save_model(tmp_path / "turned", turned, hidden=16, layers=1)
    said = refusal(weighed({code: 0.5, other: 0.5}, "union"))
    assert "'<|begin|>'" in said or "'<|end|>'" in said
    assert "is bos in" in said or "is eos in" in said
    assert str(code) in said
    assert str(other) in said


def test_a_union_of_a_model_without_a_tokenizer(
    sp: list[Path], code: Path, tmp_path: Path, refusal: Any
) -> None:
    bare = shutil.copytree(code, tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    said = refusal(weighed({sp[0]: 0.5, bare: 0.5}, "union"))
    assert f"{bare} has no tokenizer" in said


@pytest.mark.parametrize("layers", [1, 2])
def test_hidden_sizes_that_cannot_merge(
    layers: int, sp: list[Path], models: Any, refusal: Any
) -> None:
    wide = models("wide", "byte_level", hidden=48, layers=layers)
    said = refusal(weighed({sp[0]: 0.5, wide: 0.5}, "union"))
    assert EMBEDDING in said
    assert f"16 in {sp[0]}" in said
    assert f"48 in {wide}" in said


def test_hidden_sizes_of_slices_that_cannot_follow_each_other(
    sp: list[Path], models: Any, refusal: Any
) -> None:
    wide = models("wide", "byte_level", hidden=48, layers=1)
    layers = [{"sources": [{"model": str(path), "layer_range": [0, 1]}]} for path in (sp[0], wide)]
    said = refusal({"merge_method": "omp", "slices": layers, "tokenizer_source": str(wide)})
    assert f"16 in {sp[0]}, 48 in {wide}" in said


def test_numbers_of_layers_that_cannot_merge(sp: list[Path], models: Any, refusal: Any) -> None:
    deep = models("deep", "byte_level", hidden=16, layers=2)
    said = refusal(weighed({sp[0]: 0.5, deep: 0.5}, "union"))
    assert "numbers of layers differ" in said
    assert f"1 in {sp[0]}, 2 in {deep}" in said


def test_a_module_that_does_not_exist(sp: list[Path], code: Path, refusal: Any) -> None:
    config = swap(sp[0], code, parameters=K)
    config["modules"] = {"text_decoder": {"models": config.pop("models")}}
    said = refusal(config)
    assert "names 'text_decoder'" in said
    assert "They have: default." in said


def test_the_base_without_a_base_model(sp: list[Path], code: Path, refusal: Any) -> None:
    said = refusal(weighed({sp[0]: 0.5, code: 0.5}, "base"))
    assert "needs a `base_model:`" in said


def test_the_base_is_the_donor_of_every_other_model(
    merge: Any, sp: list[Path], code: Path, words: Path
) -> None:
    """Also of tokens that a model before it in the config has."""
    config = weighed({words: 0.5, code: 0.3, sp[0]: 0.2}, "base", base_model=str(sp[0]))
    out = merge(config)
    for model in record(out)["models"]:
        for tensor in model["tensors"]:
            named = [donor["model"] for donor in tensor["donors"]]
            assert named == ([] if model["model"] == sp[0].name else [sp[0].name])
