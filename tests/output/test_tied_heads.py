"""What a config says of input embedding and head is what is written, whoever reads it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from mergekit.config import MergeConfiguration
from mergekit.io import LazyTensorLoader
from mergekit.options import MergeOptions
from merges import record, swap
from readers import OlderTransformers, read
from safetensors.torch import load_file, save_file
from sklearn.linear_model import orthogonal_mp
from small_models import save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_omp import Vocabulary, align
from mergekit_omp.plugin.rehearsal import dry_run

ENTRY, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LAYERS = {"layers": 1, "hidden": 16}
TEXTS = ["the text of it"]


@pytest.fixture(scope="module")
def donor(models: Any) -> Path:
    return models("donor", "byte_level", **LAYERS)


@pytest.fixture
def edited(tmp_path: Path, real_tokenizer: Any) -> Any:
    """A tied model with another flag, or with a head beside its input embedding."""

    def make(tokenizer: str, *, flag: bool, head: float | None = None, name: str = "base") -> Path:
        path = save_model(tmp_path / name, real_tokenizer(tokenizer), tied=True, **LAYERS)
        if head is not None:
            tensors = load_file(path / "model.safetensors")
            tensors[HEAD] = tensors[ENTRY].clone() + head
            save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": flag}))
        return path

    return make


def written(out: Path) -> tuple[set[str], bool]:
    """Which of the two matrices there are, and whether the config says that they are one."""
    names: Iterable[str] = load_file(out / "model.safetensors")
    flag = json.loads((out / "config.json").read_text())["tie_word_embeddings"]
    return {ENTRY, HEAD} & set(names), flag


def warned(out: Path, *words: str) -> bool:
    said = record(out)["warnings"]
    return any(all(word in warning for word in words) for warning in said)


def assert_alike(out: Path, older: OlderTransformers) -> None:
    ours, theirs = read(out, TEXTS), older.read(out, TEXTS)
    assert not ours["problems"] and not theirs["problems"]
    torch.testing.assert_close(torch.tensor(theirs["logits"]), torch.tensor(ours["logits"]))


def test_two_matrices_under_a_flag_that_says_one(
    edited: Any, donor: Path, merge: Any, older: OlderTransformers
) -> None:
    base = edited("sentencepiece_bpe", flag=True, head=1.0)
    out = merge(swap(base, donor, "mean"))
    assert written(out) == ({ENTRY, HEAD}, False)
    assert warned(out, HEAD, ENTRY, base.name, "two")
    assert_alike(out, older)


def test_one_matrix_that_is_stored_twice(
    edited: Any, donor: Path, merge: Any, older: OlderTransformers
) -> None:
    out = merge(swap(edited("sentencepiece_bpe", flag=True, head=0.0), donor, "omp"))
    assert written(out) == ({ENTRY}, True)
    assert_alike(out, older)


@pytest.mark.parametrize("parameters", [{}, {"k": 8}, {"paper": True, "k": 8}], ids=str)
def test_omp_takes_one_matrix_for_a_head(
    models: Any, donor: Path, merge: Any, parameters: dict[str, Any]
) -> None:
    base = models("tied", "sentencepiece_bpe", tied=True, **LAYERS)
    out = merge(swap(base, donor, "omp", parameters=parameters))
    tokenizers = (AutoTokenizer.from_pretrained(path) for path in (base, donor))
    found = align(*(Vocabulary.from_tokenizer(each, "") for each in tokenizers))
    anchors, missing = np.flatnonzero(found.anchors), np.flatnonzero(found.source < 0)
    head = load_file(donor / "model.safetensors")[HEAD].double().numpy()
    atoms, targets = head[anchors], head[missing]
    weights = orthogonal_mp(atoms.T, targets.T, n_nonzero_coefs=8).T
    of_anchors = (
        load_file(base / "model.safetensors")[ENTRY].double().numpy()[found.source[anchors]]
    )
    expected, mean = weights @ of_anchors, of_anchors.mean(0)
    if "paper" not in parameters:
        expected -= np.maximum(weights.sum(1, keepdims=True) - 1, 0) * mean
    if not parameters:
        expected = mean + 1.15 * (expected - mean)
    written = load_file(out / "model.safetensors")[ENTRY].double().numpy()
    np.testing.assert_allclose(written[missing], expected, rtol=1e-3, atol=1e-4)


def test_planning_reads_each_matrix_once(
    edited: Any, donor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[tuple[str, str]] = Counter()
    original = LazyTensorLoader.get_tensor

    def get_tensor(self: LazyTensorLoader, key: str, *args: Any, **kwargs: Any) -> Any:
        read[self.index.base_path, key] += 1
        return original(self, key, *args, **kwargs)

    monkeypatch.setattr(LazyTensorLoader, "get_tensor", get_tensor)
    base = edited("sentencepiece_bpe", flag=True, head=0.0)
    config = MergeConfiguration.model_validate(swap(base, donor, "omp"))
    with dry_run(config, MergeOptions(quiet=True)) as run:
        assert run is not None
        assert [tensor.planned.weight.name for tensor in run.transplant.tensors] == [ENTRY]
    assert {(str(base), ENTRY), (str(base), HEAD)} < read.keys()
    assert set(read.values()) == {1}


def test_no_head_under_a_flag_that_says_two(
    edited: Any, donor: Path, merge: Any, older: OlderTransformers
) -> None:
    base = edited("sentencepiece_bpe", flag=False)
    out = merge(swap(base, donor, "mean"))
    assert written(out) == ({ENTRY}, True)
    assert warned(out, base.name, "tie_word_embeddings: false", ENTRY, "serves as head")
    assert_alike(out, older)


def test_a_donor_without_the_head_that_it_should_have(edited: Any, models: Any, merge: Any) -> None:
    donor = edited("byte_level", flag=False)
    out = merge(swap(models("base", "sentencepiece_bpe", **LAYERS), donor, "omp"))
    assert written(out) == ({ENTRY, HEAD}, False)
    assert warned(out, f"The donor {donor.name}", ENTRY, "in its place")


@pytest.mark.parametrize("changed", ["lm_head", "embed_tokens"])
def test_a_lora_that_changes_one_matrix_of_a_tied_base(
    changed: str, models: Any, donor: Path, merge: Any, older: OlderTransformers, tmp_path: Path
) -> None:
    base = models("tied", "sentencepiece_bpe", tied=True, **LAYERS)
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(target_modules=["q_proj"], modules_to_save=[changed]),
    )
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name or "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "adapter")
    merged = model.merge_and_unload().eval()

    reference = f"{base}+{tmp_path / 'adapter'}"
    options = ("--lora-merge-cache", str(tmp_path / "cache"))
    out = merge(
        {**swap(base, base, "mean"), "base_model": reference, "models": [{"model": reference}]},
        "out",
        *options,
    )
    names, flag = written(out)
    assert flag == (names == {ENTRY})
    assert_alike(out, older)
    with torch.no_grad():
        ids = torch.tensor(read(out, TEXTS, model=False)["plain"])
        expected = merged(ids).logits
    torch.testing.assert_close(
        torch.tensor(read(out, TEXTS)["logits"]), expected[0], rtol=1e-4, atol=1e-4
    )
