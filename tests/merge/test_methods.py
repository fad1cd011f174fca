"""Every approximation through mergekit: alone, with auxiliary vectors, without donor weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from merges import record, swap
from small_hypernetworks import random_hypernetwork
from small_models import load, matrices

from mergekit_omp.approximation import APPROXIMATIONS


@pytest.fixture(scope="module")
def tokenizer_only(real_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary that someone trained for a domain: tokenizer files and nothing else."""
    path = tmp_path_factory.mktemp("domain")
    real_tokenizer("byte_level").save_pretrained(path)
    assert not list(path.glob("*.safetensors")) and not (path / "config.json").exists()
    return path


@pytest.fixture(scope="module")
def vectors(real_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Word vectors for about half of the words of both vocabularies."""
    words = set()
    for name in ("byte_level", "sentencepiece_bpe"):
        tokenizer = real_tokenizer(name)
        words |= {tokenizer.decode([i]).strip() for i in range(300, 2000, 2)}
    named = sorted(word for word in words if word and not set(word) & set(" \n\t\r"))
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(len(named), 12, generator=generator)
    path = tmp_path_factory.mktemp("vectors") / "words.vec"
    lines = [f"{len(named)} 12"]
    lines += [
        f"{word} " + " ".join(f"{x:.4f}" for x in row.tolist())
        for word, row in zip(named, values, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def alone(name: str) -> str:
    """mergekit's own `linear` keeps its name."""
    return "linear+passthrough" if name == "linear" else name


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_each_swaps_a_tokenizer(
    name: str, base: Path, donor: Path, merge: Any, tmp_path: Path
) -> None:
    parameters = {}
    if name == "zett":
        made = random_hypernetwork(tmp_path / "network", base, tied=False)
        parameters["hypernetwork"] = str(made)
    out = merge(swap(base, donor, alone(name), parameters=parameters))
    load(out)
    (model,) = record(out)["models"]
    for entry, matrix in zip(model["tensors"], matrices(out), strict=True):
        assert entry["method"] == name
        assert entry["counts"]["approximated"] > 200
        assert torch.isfinite(matrix).all()


@pytest.mark.parametrize("name", ["mean", "zero", "normal", "subword"])
def test_a_tokenizer_without_a_model_serves(
    name: str, base: Path, tokenizer_only: Path, merge: Any
) -> None:
    load(merge(swap(base, tokenizer_only, name)))


@pytest.mark.parametrize("name", ["wechsel", "focus", "clp"])
def test_a_tokenizer_without_a_model_serves_with_auxiliary_vectors(
    name: str, base: Path, tokenizer_only: Path, vectors: Path, merge: Any
) -> None:
    out = merge(swap(base, tokenizer_only, name, parameters={"auxiliary": str(vectors)}))
    load(out)
    for matrix in matrices(out):
        assert torch.isfinite(matrix).all()


@pytest.mark.parametrize("name", ["omp", "knn", "linear", "wechsel", "focus", "clp"])
def test_methods_that_read_donor_rows_say_what_works_without(
    name: str, base: Path, tokenizer_only: Path, refusal: Any
) -> None:
    said = refusal(swap(base, tokenizer_only, alone(name)))
    assert str(tokenizer_only) in said
    assert "subword" in said


@pytest.mark.parametrize("name", ["wechsel", "focus"])
def test_the_head_can_reuse_the_weights_of_the_input(
    name: str, base: Path, donor: Path, merge: Any
) -> None:
    out = merge(swap(base, donor, name, parameters={"weights_from": "embed"}))
    (model,) = record(out)["models"]
    assert [entry["donors"][0]["tensor"] for entry in model["tensors"]] == [
        "model.embed_tokens.weight"
    ] * 2


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"neigbors": 5}, "Did you mean 'neighbors'?"),
        ({"temperature": 0}, "greater than 0"),
        ({"auxiliary": "/nowhere/words.vec"}, "/nowhere/words.vec"),
        ({"weights_from": "both"}, "'separate' or 'embed'"),
    ],
)
def test_bad_parameters(
    parameters: dict[str, Any], complaint: str, base: Path, donor: Path, refusal: Any
) -> None:
    assert complaint in refusal(swap(base, donor, "wechsel", parameters=parameters))


def test_rescaled_rows_have_the_bases_norms(base: Path, donor: Path, merge: Any) -> None:
    out = merge(swap(base, donor, parameters={"k": 2, "rescale_norms": True}))
    (model,) = record(out)["models"]
    for entry in model["tensors"]:
        norms = entry["row_norms"]
        assert norms["approximated"]["median"] == pytest.approx(norms["copied"]["median"], rel=0.05)


def test_subword_rules_differ_for_input_and_head(base: Path, donor: Path, merge: Any) -> None:
    same = merge(swap(base, donor, "subword", parameters={"head": "mean"}), "same")
    usual = merge(swap(base, donor, "subword"), "usual")
    assert torch.equal(matrices(same)[0], matrices(usual)[0])
    assert not torch.equal(matrices(same)[1], matrices(usual)[1])
