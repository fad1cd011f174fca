"""What `inspect` tells is what the merge does."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from mergekit.scripts.run_yaml import main
from merges import merge_here, record, swap, write_config
from small_models import matrices, save_model

from mergekit_omp.approximation.fit import FITS
from mergekit_omp.inspection.sample import SAMPLES
from mergekit_omp.record.shown_names import ShownNames


def without_measurements(entry: dict[str, Any]) -> dict[str, Any]:
    measured = ("row_norms", *FITS, "support_size")
    entry = {key: value for key, value in entry.items() if key not in measured}
    chosen = ("k", "head_gain", "search")
    entry["parameters"] = {k: v for k, v in entry["parameters"].items() if k not in chosen}
    return entry


@pytest.mark.parametrize("method", ["omp", "mean", "omp+linear"])
@pytest.mark.parametrize("source", ["donor", "union", "base"])
def test_the_record_of_the_merge_says_the_same(
    method: str, source: str, base: Path, donor: Path, models: Any, facts: Any, merge: Any
) -> None:
    other = models("unigram", "unigram", seed=3, hidden=16, layers=1)
    config = swap(base, {"donor": str(donor)}.get(source, source), method)
    if method == "omp+linear":
        config["models"].append({"model": str(other)})
        config["parameters"] = {"weight": 0.5}
    if method != "mean":
        config.setdefault("parameters", {})["k"] = 8
    # The record names models without their folders.
    shown = ShownNames(map(str, (base, donor, other)))
    told, done = shown.of(facts(config)), record(merge(config))
    assert told["output"]["vocab_size"] == told["output"]["rows"] == done["output"]["vocab_size"]
    assert told["output"]["tokens"] == done["output"]["tokens"]
    assert [model["model"] for model in told["models"]] == [m["model"] for m in done["models"]]
    for model, merged in zip(told["models"], done["models"], strict=True):
        assert [without_measurements(entry) for entry in model["tensors"]] == [
            without_measurements(entry) for entry in merged["tensors"]
        ]
        counts = merged["tensors"][0]["counts"]
        for key in ("shared", "by_role", "by_string", "missing", "padding", "copied"):
            assert model[key] == counts[key], key
    assert set(done["warnings"]) <= set(told["warnings"])


def test_each_control_token_gets_what_is_told(
    base: Path, donor: Path, facts: Any, merge: Any, real_tokenizer: Any
) -> None:
    config = swap(base, donor)
    del config["tokenizer_source"]
    entry = {"kind": "model_token", "model": str(base), "token": "<s>"}
    config["tokenizer"] = {
        "source": str(donor),
        "tokens": {"<|pad|>": {"source": entry, "force": True}},
    }
    (model,) = facts(config)["models"]
    out, own = matrices(merge(config))[0], matrices(base)[0]
    ids = real_tokenizer("sentencepiece_bpe").get_vocab()
    told = {token["token"]: token for token in model["control_tokens"]}
    assert told["<|begin|>"]["gets"] == "copied by role"
    assert told["<|pad|>"]["gets"] == "override"
    assert (told["<|pad|>"]["from"], told["<|pad|>"]["from_model"]) == ("<s>", str(base))
    for token in told.values():
        source = ids[token["from"]]
        assert (out[token["id"]] == own[source]).all(), token


def test_digits_and_bytes_per_token_are_those_of_the_tokenizers(
    base: Path, donor: Path, facts: Any, real_tokenizer: Any
) -> None:
    (model,) = facts(swap(base, donor))["models"]
    assert model["digit_scheme"]["base"] == {
        "scheme": "single digits",
        "1234567": list("1234567"),
    }
    assert model["digit_scheme"]["donor"]["scheme"] == "groups of three, left to right"
    for side, name in (("base", "sentencepiece_bpe"), ("donor", "byte_level")):
        assert model["bytes_per_token"][side].keys() == SAMPLES.keys()
        for kind, text in SAMPLES.items():
            tokens = real_tokenizer(name).tokenize(text)
            expected = len(text.encode()) / len(tokens)
            assert model["bytes_per_token"][side][kind] == pytest.approx(expected, abs=1e-3)


def test_the_block_can_be_pasted(
    base: Path, real_tokenizer: Any, tmp_path: Path, inspected: Any, facts: Any
) -> None:
    tokenizer = real_tokenizer("byte_level")
    markup = ["<|start_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|mystery|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": markup})
    donor = save_model(tmp_path / "donor", tokenizer)
    config = swap(base, donor)
    told = inspected(config).text
    block = told[told.index("tokenizer:\n") : told.index("Warnings:")]
    assert "# no counterpart is known for <|start_header_id|>, <|eom_id|>, <|mystery|>" in block
    del config["tokenizer_source"]
    path = tmp_path / "pasted.yml"
    path.write_text(yaml.safe_dump(config) + block)
    pasted = yaml.safe_load(path.read_text())
    assert pasted["tokenizer"]["source"] == str(donor)
    done = merge_here(pasted, tmp_path / "out")
    assert done.status == 0, done.text
    out, own = matrices(tmp_path / "out"), matrices(base)
    end = real_tokenizer("sentencepiece_bpe").eos_token_id
    new = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    for matrix, before in zip(out, own, strict=True):
        assert (matrix[new] == before[end]).all()
    # What was asked for is no longer asked for.
    assert facts(pasted)["tokens_block"] is None


def test_the_block_keeps_what_the_config_says(
    base: Path, real_tokenizer: Any, tmp_path: Path, facts: Any
) -> None:
    tokenizer = real_tokenizer("byte_level")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|eot_id|>"]})
    donor = save_model(tmp_path / "donor", tokenizer)
    config = swap(base, donor)
    del config["tokenizer_source"]
    config["tokenizer"] = {
        "source": str(donor),
        "pad_to_multiple_of": 64,
        "tokens": {"<|pad|>": {"source": {"kind": "zero"}, "force": True}},
    }
    told = facts(config)
    block = yaml.safe_load(told["tokens_block"])["tokenizer"]
    assert block["pad_to_multiple_of"] == 64
    assert block["tokens"]["<|pad|>"] == config["tokenizer"]["tokens"]["<|pad|>"]
    assert block["tokens"]["<|eot_id|>"]["source"]["token"] == "</s>"
    assert told["output"]["rows"] % 64 == 0
    assert told["models"][0]["padding"] == told["output"]["rows"] - told["output"]["tokens"]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"merge_method": "mean"},
        {"parameters": {"search": "reference", "k": 4}},
        {"merge_method": "wechsel"},
        {"merge_method": "kriging"},
    ],
)
def test_the_text_fits_a_terminal(
    change: dict[str, Any], models: Any, tmp_path: Path, monkeypatch: Any, inspected: Any
) -> None:
    # Short names, so that no line is long because of them.
    os.symlink(models("sp", "sentencepiece_bpe"), tmp_path / "base")
    os.symlink(models("bytes", "byte_level", hidden=48, seed=1), tmp_path / "donor")
    monkeypatch.chdir(tmp_path)
    done = inspected({**swap(Path("base"), "donor"), **change})
    assert done.status == 0
    assert not [line for line in done.text.splitlines() if len(line) > 80]
    assert "\x1b" not in done.text
    for title in ("Tokens of the output", "Control tokens", "Digits", "Sample", "Plan", "Warnings"):
        assert re.search(f"^{title}", done.text, re.MULTILINE), title


@pytest.mark.parametrize("memory", [None, "30MB"])
def test_the_search_is_the_one_that_the_merge_takes(
    memory: str | None, base: Path, donor: Path, facts: Any, tmp_path: Path, caplog: Any
) -> None:
    config = swap(base, donor, parameters={"k": 8} | ({"memory": memory} if memory else {}))
    told = facts(config)["plan"]
    file = write_config(tmp_path / "config.yml", config)
    caplog.clear()
    with caplog.at_level(logging.INFO, "mergekit_omp.pursuit"):
        done = CliRunner().invoke(main, [str(file), str(tmp_path / "out")])
    assert done.exit_code == 0
    said = [record.getMessage() for record in caplog.records]
    taken = [re.search(r"search (\w+( \(\w+\))?).*, ([\d.]+) GB", line) for line in said]
    # Input and head are alike, and a merge says each fact once.
    searches = {found[1]: float(found[3]) for found in taken if found}
    assert {step["search"] for step in told} == set(searches)
    for step in told:
        assert step["bytes"] > (searches[step["search"]] - 0.05) * 1e9


def test_a_plain_merge_has_nothing_to_inspect(base: Path, inspected: Any, facts: Any) -> None:
    config = swap(base, base, "linear", parameters={"weight": 1.0})
    done = inspected(config)
    assert done.status == 0
    assert done.text.count("\n") == 1
    assert "nothing to inspect" in done.text
    told = facts(config)
    assert told["models"] == told["warnings"] == []


def test_a_tied_model_has_one_tensor_and_reads_the_donors_head(
    models: Any, donor: Path, facts: Any
) -> None:
    tied = models("tied", "sentencepiece_bpe", tied=True)
    (step,) = facts(swap(tied, donor))["plan"]
    assert step["tensor"] == "model.embed_tokens.weight"
    assert step["donor_tensor"] == "lm_head.weight"


def test_slices_and_a_donor_without_weights(
    models: Any, real_tokenizer: Any, tmp_path: Path, facts: Any
) -> None:
    bare = tmp_path / "bare"
    real_tokenizer("byte_level").save_pretrained(bare)
    family = [models(f"slice{seed}", "sentencepiece_bpe", seed=seed) for seed in (0, 1, 2)]
    ranges = ([0, 1], [0, 2], [1, 2])
    config = {
        "merge_method": "subword",
        "slices": [
            {"sources": [{"model": str(model), "layer_range": layers}]}
            for model, layers in zip(family, ranges, strict=True)
        ],
        "tokenizer_source": str(bare),
    }
    told = facts(config)
    assert [m["model"] for m in told["models"]] == [str(family[0]), str(family[2])]
    assert all(m["donor"] == str(bare) for m in told["models"])
    assert {(step["part"], step["donor_tensor"]) for step in told["plan"]} == {
        ("input", None),
        ("head", None),
    }


def test_options_of_mergekit_yaml_are_taken(
    base: Path, donor: Path, tmp_path: Path, inspected: Any
) -> None:
    from click.testing import CliRunner

    from mergekit_omp.cli import main

    done = inspected(
        swap(base, donor), "--json", "--cuda", "--lazy-unpickle", "--trust-remote-code"
    )
    assert done.status == 0
    said = CliRunner().invoke(main, ["inspect", "--help"]).output
    for option in ("--json", "--trust-remote-code", "--lora-merge-cache", "--transformers-cache"):
        assert option in said
    write_config(tmp_path / "c.yml", swap(base, donor))
    unknown = CliRunner().invoke(main, ["inspect", str(tmp_path / "c.yml"), "--colour"])
    assert unknown.exit_code == 2


def test_neighbours_that_input_and_head_share_are_counted_once(models: Any, facts: Any) -> None:
    untied, tied = (
        models("bytes", "byte_level", hidden=48, seed=1, tied=tied) for tied in (False, True)
    )
    base = models("sp", "sentencepiece_bpe")
    seconds = [
        [step["seconds"] for step in facts(swap(base, donor, merge_method=name))["plan"]]
        for donor, name in ((untied, "kriging"), (tied, "kriging"), (untied, "focus"))
    ]
    for first, second in seconds[:2]:
        assert second < 0.9 * first
    assert seconds[2][0] == seconds[2][1]
