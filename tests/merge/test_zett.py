"""Merges by `zett`: rows as the original predicts them, on whatever side of a merge."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions
from merges import mergekit_yaml, record, swap, write_config
from merging import assert_same, tensors
from safetensors.torch import load_file
from small_hypernetworks import (
    ENTRY,
    HEAD,
    TARGET,
    base_model,
    changed,
    expected,
    published,
    random_hypernetwork,
    source_rows,
)
from small_models import load, save_model
from transformers import AutoTokenizer

from mergekit_omp.cli import main as mergekit_omp
from mergekit_omp.plugin.rehearsal import dry_run
from mergekit_omp.vocabulary import Kind, Match, Vocabulary, align

LANGUAGES = [
    ("untied", None),
    ("single_head", None),
    ("tied_language", "en"),
    ("tied_language", "de"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zett")


@pytest.fixture(scope="module")
def vocabularies() -> dict[str, Vocabulary]:
    return {
        name: Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(path), name)
        for name, path in (("base", TARGET.parent / "base_tokenizer"), ("target", TARGET))
    }


def by_zett(base: Path, hypernetwork: Path, **more: Any) -> dict[str, Any]:
    """The swap to the target's tokenizer, which is no model."""
    parameters = {"hypernetwork": str(hypernetwork), **more}
    return swap(base, TARGET, "zett", parameters=parameters)


@pytest.mark.parametrize("copy_shared", [True, False])
@pytest.mark.parametrize(("name", "language"), LANGUAGES)
def test_rows_are_copied_or_those_of_the_original(
    name: str,
    language: str | None,
    copy_shared: bool,
    folder: Path,
    vocabularies: dict[str, Vocabulary],
    merge: Any,
) -> None:
    tied = name == "tied_language"
    more = {"language": language} if language else {}
    base, hypernetwork = base_model(folder, tied=tied), published(folder, name)
    out = merge(by_zett(base, hypernetwork, copy_shared=copy_shared, **more))
    load(out)
    found, rows, wanted = tensors(out), source_rows(), expected(name)
    shared = torch.from_numpy(align(vocabularies["base"], vocabularies["target"]).source)
    ordinary = torch.from_numpy(vocabularies["target"].kinds == Kind.ORDINARY)
    copied = (shared >= 0) & (~ordinary if not copy_shared else True)
    assert int((~copied).sum()) > (700 if not copy_shared else 100)
    for tensor, source, key in ((ENTRY, "embed", "input"), (HEAD, "head", "head")):
        if tied and key == "head":
            assert HEAD not in found
            continue
        predicted = wanted[f"{key}.{language}" if language else key]
        assert torch.equal(found[tensor][copied], rows[source][shared[copied]])
        torch.testing.assert_close(found[tensor][~copied], predicted[~copied], rtol=1e-5, atol=1e-5)


def test_the_command_itself(folder: Path, tmp_path: Path) -> None:
    base, hypernetwork = base_model(folder, tied=False), published(folder, "untied")
    config = write_config(tmp_path / "zett.yml", by_zett(base, hypernetwork))
    done = mergekit_yaml(config, tmp_path / "out")
    assert done.status == 0, done.text
    assert "Predicted tokens" in done.text
    assert "by zett with the hypernetwork" in " ".join(done.text.split())
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"approximated by `zett` with the hypernetwork {hypernetwork.name}" in card
    assert str(hypernetwork) not in card
    assert "No training of the models was involved" in card


def test_the_record_says_what_was_predicted_by_what(
    folder: Path, merge: Any, tmp_path: Path
) -> None:
    hypernetwork = changed(
        published(folder, "untied"), tmp_path / "named", config={"_name_or_path": "maker/own"}
    )
    found = record(merge(by_zett(base_model(folder, tied=False), hypernetwork, copy_shared=False)))
    (model,) = found["models"]
    first, second = (entry["hypernetwork"] for entry in model["tensors"])
    assert first == second
    weights = (hypernetwork / "model.safetensors").read_bytes()
    assert first["sha256"] == hashlib.sha256(weights).hexdigest()
    assert (first["source"], first["base"]) == ("named", "maker/own")
    ordinary = model["tensors"][0]["counts"]["approximated"]
    assert (first["predicted"], first["truncated"], first["unspellable"]) == (ordinary, 2, 0)
    assert len(first["truncated_examples"]) == 2
    assert first["bias"] == "predicted, and left out since the model has no head bias"
    warned = " ".join(found["warnings"])
    cut = ", ".join(map(repr, first["truncated_examples"]))
    assert f"the end of 2 tokens ({cut}) does not count" in warned
    assert "was trained for maker/own, and is used for" in warned
    # What it was trained for, under another roof.
    own = base_model(folder / "maker", tied=False, name="own")
    renamed = changed(hypernetwork, tmp_path / "own", config={"_name_or_path": f"x/{own.name}"})
    told = record(merge(by_zett(own, renamed), "of-its-own"))["warnings"]
    assert not any("was trained for" in warning for warning in told)


def test_the_revision_is_recorded(
    folder: Path, tmp_path: Path, merge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "89abcdef0123456789abcdef0123456789abcdef"
    held = tmp_path / "hub" / "models--owner--hypernetwork"
    changed(published(folder, "untied"), held / "snapshots" / commit)
    (held / "refs").mkdir()
    (held / "refs" / "v1").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    out = merge(by_zett(base_model(folder, tied=False), Path("owner/hypernetwork@v1")))
    (model,) = record(out)["models"]
    found = model["tensors"][0]["hypernetwork"]
    assert (found["source"], found["revision"]) == ("owner/hypernetwork@v1", commit)
    assert "sha256" not in found


def test_tokens_that_cannot_be_spelled_get_the_mean_row(
    folder: Path, tmp_path: Path, merge: Any, vocabularies: dict[str, Vocabulary]
) -> None:
    # Without rows of its own for bytes, it cannot spell the one that the base lacks.
    def cut(weights: dict[str, torch.Tensor]) -> None:
        name = "fallback_embeddings.weight"
        weights[name] = weights[name][:1].clone()

    def move(path: Path) -> None:
        found = json.loads((path / "tokenizer.json").read_text())
        vocab = found["model"]["vocab"]
        other = next(token for token, i in vocab.items() if i == 701)
        vocab["ÿ"], vocab[other] = 701, 700
        (path / "tokenizer.json").write_text(json.dumps(found))

    hypernetwork = changed(
        published(folder, "untied"),
        tmp_path / "cut",
        config={"hn_n_extra_tokens": 0},
        weights=cut,
    )
    move(hypernetwork)
    base = base_model(folder, tied=False)
    out = merge(by_zett(base, hypernetwork, copy_shared=False))
    (model,) = record(out)["models"]
    found = model["tensors"][1]["hypernetwork"]
    assert (found["unspellable"], found["unspellable_examples"]) == (1, ["ÿ"])
    assert "1 token ('ÿ') cannot be spelled" in " ".join(record(out)["warnings"])
    target = vocabularies["target"].strings.index("ÿ")
    mean = source_rows()["head"].double().mean(0).float()
    torch.testing.assert_close(tensors(out)[HEAD][target], mean)


def test_one_pass_serves_all_tensors_of_a_model(folder: Path) -> None:
    base, hypernetwork = base_model(folder, tied=False), published(folder, "untied")
    config = MergeConfiguration.model_validate(by_zett(base, hypernetwork))
    with dry_run(config, MergeOptions(quiet=True)) as run:
        tasks = {
            served.predict
            for tensor in run.transplant.tensors
            for rows in tensor.models
            for served in rows.plan.approximated
        }
        assert len(run.transplant.tensors) == 2
    assert len(tasks) == 1


def test_a_predicted_bias_goes_to_a_head_that_has_one(
    folder: Path, merge: Any, vocabularies: dict[str, Vocabulary]
) -> None:
    base = base_model(folder, tied=False, name="biased", model_type="phi")
    out = merge(by_zett(base, published(folder, "untied"), copy_shared=False))
    found, ordinary = tensors(out), vocabularies["target"].kinds == Kind.ORDINARY
    torch.testing.assert_close(
        found["lm_head.bias"][ordinary], expected("untied")["bias"][ordinary], rtol=1e-5, atol=1e-5
    )
    (model,) = record(out)["models"]
    assert [entry["part"] for entry in model["tensors"]] == ["input", "head_bias", "head"]
    assert "bias" not in model["tensors"][0]["hypernetwork"]
    # One that predicts none leaves the mean.
    out = merge(by_zett(base, published(folder, "single_head"), copy_shared=False), "without")
    bias = load_file(base / "model.safetensors")["lm_head.bias"]
    new = tensors(out)["lm_head.bias"][ordinary]
    torch.testing.assert_close(new, bias.double().mean().float().expand_as(new))
    assert any("predicts no bias" in warning for warning in record(out)["warnings"])


def test_in_front_of_a_merge_method(
    family: list[Path], donor: Path, merge: Any, tmp_path: Path
) -> None:
    # Fine-tunes of one base, each predicted from rows of its own.
    hypernetwork = random_hypernetwork(tmp_path / "network", family[0], tied=False)
    parameters = {"hypernetwork": str(hypernetwork)}
    swapped = [
        merge(swap(path, donor, "zett", parameters=parameters), f"swapped{i}")
        for i, path in enumerate(family)
    ]

    def config(paths: list[Path], name: str, **more: Any) -> dict[str, Any]:
        weights = {"weight": 0.5, "density": 0.6}
        return {
            "merge_method": name,
            "base_model": str(paths[0]),
            "models": [{"model": str(p), "parameters": weights} for p in paths[1:]],
            "dtype": "float32",
            **more,
        }

    with_source = {"tokenizer_source": str(donor), "parameters": parameters}
    composite = merge(config(family, "zett+ties", **with_source), "composite")
    assert_same(composite, merge(config(swapped, "ties"), "plain"))
    load(composite)


def test_parameters_may_differ_by_tensor(
    folder: Path, merge: Any, vocabularies: dict[str, Vocabulary]
) -> None:
    base, hypernetwork = base_model(folder, tied=False), published(folder, "untied")
    copy_shared = [{"filter": "lm_head", "value": False}, {"value": True}]
    found = tensors(merge(by_zett(base, hypernetwork, copy_shared=copy_shared)))
    ordinary = vocabularies["target"].kinds == Kind.ORDINARY
    head = expected("untied")["head"][ordinary]
    torch.testing.assert_close(found[HEAD][ordinary], head, rtol=1e-5, atol=1e-5)
    alone = tensors(merge(by_zett(base, hypernetwork), "alone"))
    assert torch.equal(found[ENTRY], alone[ENTRY])


@pytest.mark.parametrize("source", ["base", "union"])
def test_a_tokenizer_that_is_the_models_own(
    source: str, family: list[Path], merge: Any, tmp_path: Path
) -> None:
    base = family[0]
    hypernetwork = random_hypernetwork(tmp_path / "network", base, tied=False)
    parameters = {"hypernetwork": str(hypernetwork), "copy_shared": False}
    config = {
        "merge_method": "zett+linear",
        "base_model": str(base),
        "models": [{"model": str(p), "parameters": {"weight": 0.5}} for p in family[:2]],
        "tokenizer_source": source,
        "parameters": parameters,
        "dtype": "float32",
    }
    found = record(merge(config))
    for model in found["models"]:
        for entry in model["tensors"]:
            counts = entry["counts"]
            assert counts["without_donor_row"] == 0
            assert counts["approximated"] == entry["hypernetwork"]["predicted"] > 1000
            assert counts["copied"] == counts["by_role"] + counts["by_string"]


def test_inspect_and_report_tell_of_it(folder: Path, merge: Any, tmp_path: Path) -> None:
    config = by_zett(base_model(folder, tied=False), published(folder, "untied"))
    file = write_config(tmp_path / "zett.yml", config)
    inspected = CliRunner().invoke(mergekit_omp, ["inspect", "--json", str(file)])
    assert inspected.exit_code == 0, inspected.output
    found = json.loads(inspected.stdout)
    # One step for both tensors.
    (step,) = found["plan"]
    assert step["method"] == "zett" and step["missing"] > 100
    held = (published(folder, "untied") / "model.safetensors").stat().st_size
    assert step["bytes"] > held - 514 * 32 * 4
    (told,) = {json.dumps(t["hypernetwork"]) for t in found["models"][0]["tensors"]}
    assert json.loads(told)["predicted"] == step["missing"]
    out = merge(config)
    reported = CliRunner().invoke(mergekit_omp, ["report", str(out), "--markdown"])
    assert reported.exit_code == 0, reported.output
    (report,) = out.glob("tokenizer_transplant.md")
    text = " ".join(report.read_text().split())
    assert "approximated by zett with the hypernetwork" in text
    assert "a hypernetwork reads the very row that would be hidden" in text


def test_rows_in_half_precision(folder: Path, merge: Any, tmp_path: Path) -> None:
    base = base_model(folder, tied=False)
    config = by_zett(base, published(folder, "untied")) | {"dtype": "bfloat16"}
    found = tensors(merge(config))[ENTRY]
    whole = tensors(merge(by_zett(base, published(folder, "untied")), "whole"))[ENTRY]
    assert found.dtype == torch.bfloat16
    # Predicted from the model's own rows, and rounded once.
    assert torch.equal(found, whole.bfloat16())


def test_a_fine_tune_with_tokens_of_its_own(
    folder: Path, merge: Any, tmp_path: Path, vocabularies: dict[str, Vocabulary]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TARGET.parent / "base_tokenizer")
    tokenizer.add_tokens(["<think>"])
    base = save_model(tmp_path / "chat", tokenizer, hidden=32, layers=1, rows=704)
    out = merge(by_zett(base, published(folder, "untied")))
    load(out)
    alignment = align(vocabularies["base"], vocabularies["target"])
    own = load_file(base / "model.safetensors")[ENTRY]
    at = int((alignment.match == Match.BYTES).nonzero()[0][0])
    assert torch.equal(tensors(out)[ENTRY][at], own[alignment.source[at]])


@pytest.mark.parametrize(
    ("tied", "name", "parameters", "message"),
    [
        (False, None, {}, "zett needs a `hypernetwork`"),
        (False, "tied_language", {"language": "en"}, "serves as the head too; .* has a head of"),
        (True, "untied", {}, "whose head is a matrix of its own; .* has one matrix for both"),
        (False, "untied", {"language": "en"}, "has no languages"),
        (True, "tied_language", {}, "needs a `language`: write one of en, de"),
        (True, "tied_language", {"language": "fr"}, "has no language 'fr'"),
        (True, "tied_language", {"language": False}, "write it in quotes"),
        (False, "untied", {"hypernetworks": "x"}, "has no parameter 'hypernetworks'"),
    ],
)
def test_what_is_refused(
    tied: bool,
    name: str | None,
    parameters: dict[str, Any],
    message: str,
    folder: Path,
    refusal: Any,
) -> None:
    config = swap(base_model(folder, tied=tied), TARGET, "zett", parameters=dict(parameters))
    if name is not None:
        config["parameters"]["hypernetwork"] = str(published(folder, name))
    found = refusal(config)
    assert _matches(message, found), found


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        ({"n_embd": 31}, None, "must be of shape"),
        ({}, lambda w: w["scaler.w"].fill_(torch.inf), "expected finite numbers in scaler.w"),
        ({}, lambda w: w.pop("bias_projection.bias"), "expected a tensor bias_projection.bias"),
        ({"hn_embed_target_priors": True}, None, "hn_embed_target_priors must be false"),
    ],
)
def test_a_hypernetwork_that_is_not_right_is_refused_before_anything_is_written(
    config: dict[str, Any],
    weights: Any,
    message: str,
    folder: Path,
    tmp_path: Path,
    refusal: Any,
) -> None:
    path = changed(
        published(folder, "untied"), tmp_path / "changed", config=config, weights=weights
    )
    found = refusal(by_zett(base_model(folder, tied=False), path))
    assert _matches(message, found), found
    assert str(path) in found


def test_a_hypernetwork_of_another_base(family: list[Path], folder: Path, refusal: Any) -> None:
    found = refusal(by_zett(family[0], published(folder, "untied")))
    assert _matches(r"n_embd must be the length of a row .*\(16\); found 32", found), found


def test_a_base_of_another_vocabulary(folder: Path, models: Any, refusal: Any) -> None:
    base = models("words", "byte_level", hidden=32, layers=1)
    found = refusal(by_zett(base, published(folder, "untied")))
    assert _matches(r"tokenizer.json of the hypernetwork .* is not of a hypernetwork for", found)
    assert _matches(r"expected the base's token '.+' at id \d+; found '.+'", found), found


def _matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None
