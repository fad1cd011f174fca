"""Making models, and keeping them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_demo import SMALL_DEMO, small_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_omp.demo.corpus import standard_library_corpus
from mergekit_omp.demo.models import default_cache_dir, make_model, make_models
from mergekit_omp.demo.tokenizers import TokenizerStyle
from mergekit_omp.evaluation import bits_per_byte


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [document.text for document in standard_library_corpus(SMALL_DEMO.corpus).train]


@pytest.mark.parametrize("tied", [False, True])
def test_a_made_model_loads_and_speaks_its_tokenizer(texts, tmp_path, tied):
    spec = small_model(TokenizerStyle.SENTENCEPIECE, steps=0, tied=tied)
    assert make_model(spec, texts, tmp_path / "model") == tmp_path / "model"
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert len(tokenizer) == model.config.vocab_size == 768
    assert model.get_input_embeddings().weight.shape == (768, 32)
    assert model.config.tie_word_embeddings is tied
    for role in ("bos", "eos", "pad"):
        expected = getattr(tokenizer, f"{role}_token_id")
        assert getattr(model.config, f"{role}_token_id") == expected
        assert getattr(model.generation_config, f"{role}_token_id") == expected
    # No row is zero, so that a copied row can be told from a missing one.
    assert (model.get_input_embeddings().weight != 0).any(dim=1).all()


def test_training_teaches(texts, tmp_path):
    found = []
    for steps in (0, 60):
        path = make_model(
            small_model(TokenizerStyle.BYTE_LEVEL, steps=steps), texts, tmp_path / str(steps)
        )
        model = AutoModelForCausalLM.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
        found.append(bits_per_byte(model, tokenizer, texts[:3]).bits_per_byte)
    assert found[1] < 0.95 * found[0]


def test_the_same_spec_gives_the_same_weights_and_leaves_the_random_state(texts, tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    spec = small_model(TokenizerStyle.BYTE_LEVEL)
    one, two = (
        load_file(make_model(spec, texts, tmp_path / name) / "model.safetensors")
        for name in ("one", "two")
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = replace(spec, training=replace(spec.training, seed=1))
    three = load_file(make_model(other, texts, tmp_path / "three") / "model.safetensors")
    assert not torch.equal(one["lm_head.weight"], three["lm_head.weight"])


def test_too_little_text_is_said(tmp_path):
    with pytest.raises(ValueError, match="give more text"):
        make_model(small_model(TokenizerStyle.BYTE_LEVEL), ["short"], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def written(cache: Path) -> dict[str, int]:
    """When each weight file of the cache was written."""
    return {
        str(file.relative_to(cache)): file.stat().st_mtime_ns
        for file in sorted(cache.rglob("*.safetensors"))
    }


def test_the_cache_is_used_and_renewed_where_it_must_be(tmp_path):
    said: list[str] = []
    models = make_models(tmp_path, SMALL_DEMO, announce=said.append)
    assert [line.split(":")[0] for line in said[1:]] == [
        "Training sentencepiece",
        "Training byte-level",
    ]
    first = written(tmp_path)
    assert len(first) == 2
    assert models.held_out == standard_library_corpus(SMALL_DEMO.corpus).held_out

    said.clear()
    assert make_models(tmp_path, SMALL_DEMO, announce=said.append) == models
    assert said == []
    assert written(tmp_path) == first

    # Another setting of one model leaves the other where it is.
    longer = replace(SMALL_DEMO.base, training=replace(SMALL_DEMO.base.training, steps=4))
    changed = make_models(tmp_path, replace(SMALL_DEMO, base=longer))
    assert changed.donor == models.donor
    assert changed.base != models.base
    assert {file: when for file, when in written(tmp_path).items() if file in first} == first


def test_an_interrupted_model_is_not_used(tmp_path):
    # Fails after its tokenizer was made: there is not enough text for such batches.
    greedy = replace(SMALL_DEMO.base.training, batch_size=100_000)
    broken = replace(SMALL_DEMO, base=replace(SMALL_DEMO.base, training=greedy))
    with pytest.raises(ValueError, match="give more text"):
        make_models(tmp_path, broken)
    left = [entry.name for entry in tmp_path.iterdir()]
    assert not [name for name in left if name.startswith((".", "sentencepiece"))]
    # What a killed process leaves behind is never taken for a model.
    unfinished = tmp_path / ".unfinished-abc" / "folder"
    unfinished.mkdir(parents=True)
    (unfinished / "config.json").write_text("{}")
    models = make_models(tmp_path, SMALL_DEMO)
    assert (models.base / "model.safetensors").is_file()
    assert (models.donor / "tokenizer.json").is_file()


def test_the_cache_is_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "mergekit-omp" / "demo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_dir() == tmp_path / "home" / ".cache" / "mergekit-omp" / "demo"
