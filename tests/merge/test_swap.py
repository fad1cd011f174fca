"""A swapped tokenizer: what the output holds, row by row and file by file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from merges import mergekit_yaml, record, swap, write_config
from sklearn.linear_model import orthogonal_mp
from small_models import load, matrices

from mergekit_omp import Vocabulary, align

SETTINGS = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "eos_token_id": 2}


@pytest.fixture(scope="module")
def base(models: Any) -> Path:
    return models("sp", "sentencepiece_bpe", generation=SETTINGS)


@pytest.fixture(scope="module")
def out(base: Path, donor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's first config, by the real command."""
    folder = tmp_path_factory.mktemp("swap")
    config = write_config(folder / "config.yml", swap(base, donor, parameters={"k": 12}))
    done = mergekit_yaml(config, folder / "out")
    assert done.status == 0, done.text
    return folder / "out"


def alignment(base: Path, donor: Path) -> Any:
    load_tokenizer = transformers.AutoTokenizer.from_pretrained
    return align(
        Vocabulary.from_tokenizer(load_tokenizer(base), "base"),
        Vocabulary.from_tokenizer(load_tokenizer(donor), "donor"),
    )


def test_it_loads_and_speaks_with_the_donors_tokenizer(out: Path, donor: Path) -> None:
    model, tokenizer = load(out)
    theirs = transformers.AutoTokenizer.from_pretrained(donor)
    text = "def f(x):\n    return x ** 2  # über 12345"
    assert tokenizer(text).input_ids == theirs(text).input_ids
    assert tokenizer.get_vocab() == theirs.get_vocab()
    rows = {m.weight.shape[0] for m in (model.get_input_embeddings(), model.lm_head)}
    assert rows == {model.config.vocab_size} == {len(theirs.get_vocab())}


def test_shared_tokens_keep_their_rows_and_the_rest_of_the_model_is_untouched(
    out: Path, base: Path, donor: Path
) -> None:
    found = alignment(base, donor)
    copied = np.flatnonzero(found.source >= 0)
    assert len(copied) > 1000
    for ours, theirs in zip(matrices(out), matrices(base), strict=True):
        assert torch.equal(ours[copied], theirs[found.source[copied]])
    ours, theirs = (
        transformers.AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (out, base)
    )
    for name, tensor in theirs.items():
        if "embed_tokens" not in name and "lm_head" not in name:
            assert torch.equal(ours[name], tensor), name


def test_missing_rows_are_what_an_independent_pursuit_gives(
    out: Path, base: Path, donor: Path
) -> None:
    found = alignment(base, donor)
    anchors = np.flatnonzero(found.anchors)
    missing = np.flatnonzero(found.source < 0)[:40]
    triples = zip(matrices(out), matrices(donor), matrices(base), strict=True)
    for is_head, (ours, of_donor, of_base) in enumerate(triples):
        atoms = of_donor[anchors].double().numpy()
        weights = orthogonal_mp(atoms.T, of_donor[missing].double().numpy().T, n_nonzero_coefs=12)
        of_anchors = of_base[found.source[anchors]].double().numpy()
        expected = weights.T @ of_anchors
        if is_head:
            too_many = np.maximum(weights.sum(0) - 1, 0)
            expected -= np.outer(too_many, of_anchors.mean(0))
        np.testing.assert_allclose(ours[missing].numpy(), expected, rtol=1e-3, atol=1e-4)


def test_text_of_shared_tokens_has_the_bases_hidden_states_and_logits(
    out: Path, base: Path, donor: Path
) -> None:
    found = alignment(base, donor)
    swapped, tokenizer = load(out)
    original, _ = load(base)
    text = " the value of an object is a list of names and the result is true"
    ids = [i for i in tokenizer(text, add_special_tokens=False).input_ids if found.source[i] >= 0]
    assert len(ids) >= 10
    with torch.no_grad():
        ours = swapped(torch.tensor([ids]), output_hidden_states=True)
        theirs = original(
            torch.tensor([[int(found.source[i]) for i in ids]]), output_hidden_states=True
        )
    for mine, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert torch.equal(mine, other)
    copied = np.flatnonzero(found.source >= 0)
    torch.testing.assert_close(
        ours.logits[..., copied], theirs.logits[..., found.source[copied]], rtol=0, atol=1e-6
    )


def test_ids_of_roles_are_the_output_tokenizers_and_other_settings_stay(out: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    generation = json.loads((out / "generation_config.json").read_text())
    for role in ("bos", "eos", "pad"):
        assert config[f"{role}_token_id"] == getattr(tokenizer, f"{role}_token_id")
        assert generation[f"{role}_token_id"] == getattr(tokenizer, f"{role}_token_id")
    assert config["unk_token_id"] == tokenizer.unk_token_id
    assert (generation["temperature"], generation["top_p"]) == (0.7, 0.9)


def test_generation_stops_at_eos(out: Path) -> None:
    model, tokenizer = load(out)
    inputs = tokenizer("the", return_tensors="pt").input_ids
    with torch.no_grad():
        # Where every next token is eos, nothing but the stop can end the text early.
        direction = model.model(inputs).last_hidden_state[0, -1]
        model.lm_head.weight[tokenizer.eos_token_id] = direction * 1e3
    written = model.generate(inputs, max_new_tokens=20, do_sample=False)
    assert written[0, -1] == tokenizer.eos_token_id
    assert written.shape[1] == inputs.shape[1] + 1


def test_the_record_says_what_was_done(out: Path, base: Path, donor: Path) -> None:
    said = record(out)
    (model,) = said["models"]
    assert model["model"] == base.name
    assert [entry["part"] for entry in model["tensors"]] == ["input", "head"]
    found = alignment(base, donor)
    for entry in model["tensors"]:
        counts = entry["counts"]
        assert counts["shared"] == found.counts.shared
        assert counts["by_role"] == found.counts.by_role
        assert counts["copied"] + counts["approximated"] + counts["padding"] == counts["rows"]
        assert entry["parameters"]["k"] == 12
        assert entry["donors"][0]["model"] == donor.name
        assert 0 < entry["relative_residual"]["mean"] <= entry["relative_residual"]["max"] < 1
        assert entry["support_size"]["max"] == 12
    assert said["versions"]["mergekit"].startswith("0.1.")


def test_it_is_described_in_the_model_card(out: Path) -> None:
    card = (out / "README.md").read_text()
    assert "omp" in card
    assert "tokenizer_source" in card


@pytest.mark.parametrize("method", ["mean", "zero"])
def test_mean_and_zero(method: str, base: Path, donor: Path, merge: Any) -> None:
    out = merge(swap(base, donor, method))
    missing = np.flatnonzero(alignment(base, donor).source < 0)
    for ours, theirs in zip(matrices(out), matrices(base), strict=True):
        expected = theirs.mean(0) if method == "mean" else torch.zeros(theirs.shape[1])
        torch.testing.assert_close(ours[missing], expected.expand(len(missing), -1))


def test_parameters_can_differ_by_tensor(base: Path, donor: Path, merge: Any) -> None:
    k = [{"filter": "lm_head", "value": 9}, {"value": 5}]
    out = merge(swap(base, donor, parameters={"k": k}))
    (model,) = record(out)["models"]
    assert [entry["parameters"]["k"] for entry in model["tensors"]] == [5, 9]
    assert [entry["support_size"]["max"] for entry in model["tensors"]] == [5, 9]


def test_rows_are_padded_to_a_multiple(base: Path, donor: Path, merge: Any) -> None:
    config = swap(base, donor, "zero")
    del config["tokenizer_source"]
    config["tokenizer"] = {"source": str(donor), "pad_to_multiple_of": 64}
    out = merge(config)
    model, tokenizer = load(out)
    tokens = len(tokenizer.get_vocab())
    assert model.config.vocab_size == model.lm_head.weight.shape[0] == -(-tokens // 64) * 64
    padding = matrices(out)[0][tokens:]
    torch.testing.assert_close(padding, matrices(out)[0][:tokens].mean(0).expand_as(padding))


def test_a_model_keeps_all_rows_under_its_own_tokenizer(base: Path, merge: Any) -> None:
    out = merge(swap(base, "base"))
    for ours, theirs in zip(matrices(out), matrices(base), strict=True):
        assert torch.equal(ours, theirs)


def test_a_tied_base_is_served_from_the_donors_head(models: Any, donor: Path, merge: Any) -> None:
    base = models("sp_tied", "sentencepiece_bpe", tied=True)
    out = merge(swap(base, donor, parameters={"k": 8}))
    (model,) = record(out)["models"]
    (entry,) = model["tensors"]
    assert entry["donors"][0]["tensor"] == "lm_head.weight"
    loaded, _ = load(out)
    assert loaded.get_input_embeddings().weight is loaded.lm_head.weight


def test_an_untied_base_takes_both_from_a_tied_donor(models: Any, base: Path, merge: Any) -> None:
    donor = models("bytes_tied", "byte_level", hidden=24, tied=True)
    out = merge(swap(base, donor, parameters={"k": 8}))
    (model,) = record(out)["models"]
    assert {entry["donors"][0]["tensor"] for entry in model["tensors"]} == {
        "model.embed_tokens.weight"
    }
    load(out)


@pytest.mark.parametrize(
    "donor_settings",
    [
        {"model_type": "gpt_neox", "hidden": 40},
        {"model_type": "qwen2", "hidden": 56, "dtype": torch.bfloat16, "shard_size": "100KB"},
    ],
    ids=["gpt_neox", "qwen2-sharded-bfloat16"],
)
def test_a_donor_of_another_architecture_dtype_and_sharding(
    models: Any, base: Path, merge: Any, donor_settings: dict[str, Any]
) -> None:
    donor = models(f"donor_{donor_settings['model_type']}", "byte_level", **donor_settings)
    out = merge(swap(base, donor, parameters={"k": 8}))
    (model,) = record(out)["models"]
    for entry in model["tensors"]:
        assert entry["relative_residual"]["mean"] < 1
    load(out)


def test_the_bases_dtype_is_kept_where_none_is_asked_for(
    models: Any, donor: Path, merge: Any
) -> None:
    base = models("sp_bf16", "sentencepiece_bpe", dtype=torch.bfloat16)
    config = swap(base, donor)
    del config["dtype"]
    out = merge(config)
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model.lm_head.weight.dtype == torch.bfloat16
