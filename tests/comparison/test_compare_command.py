"""`mergekit-omp compare`, against merges that are written and evaluated one by one."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from click.testing import CliRunner, Result
from merges import merge_here, swap, write_config
from transformers import AutoTokenizer

from mergekit_omp.cli import main

TEXT = "\n\n".join(
    f"The {word} of the house said: return {word}[{number}] if it is not None, else {number}.\n"
    "A class, a function — naïve, and 12345 more; über alles."
    for number, word in enumerate(["list", "module", "object", "string", "value"])
)
MEASURED_APART = {"model", "merge_method", "parameters", "seconds", "peak_bytes"}
"""What a comparison says of a model beyond `evaluate`, or in other words."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def compared(config: Path, text: Path, *arguments: str) -> dict[str, Any]:
    done = invoke(
        "compare", config, "--text", text, "--split", "line", "--json", "--quiet", *arguments
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def evaluated(base: Path, outputs: list[Path], text: Path) -> dict[str, Any]:
    done = invoke(
        *("evaluate", base, *outputs, "--text", text, "--split", "line", "--base", base),
        *("--json", "--quiet"),
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def assert_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Every number of every model, and of every pair, in the same order."""
    assert ours["text"] == theirs["text"] and ours["settings"] == theirs["settings"]
    assert len(ours["models"]) == len(theirs["models"])
    for one, other in zip(ours["models"], theirs["models"], strict=True):
        for key in other.keys() - MEASURED_APART:
            assert one[key] == other[key], (one["model"], key)
    names = {one["model"]: other["model"] for one, other in _pairs(ours, theirs, "models")}
    for one, other in _pairs(ours, theirs, "differences"):
        assert {**one, "model": names[one["model"]], "minus": names[one["minus"]]} == other


def _pairs(ours: dict[str, Any], theirs: dict[str, Any], key: str) -> Any:
    return zip(ours[key], theirs[key], strict=True)


def fine_tunes(family: list[Path], donor: Path, **more: Any) -> dict[str, Any]:
    """A merge of two models, in another dtype than theirs."""
    return {
        "merge_method": "omp+ties",
        "base_model": str(family[0]),
        "models": [
            {"model": str(path), "parameters": {"weight": 0.5, "density": 0.6}}
            for path in family[1:]
        ],
        "tokenizer_source": str(donor),
        "dtype": "bfloat16",
        "parameters": {"k": [{"filter": "lm_head", "value": 3}, {"value": 5}]},
        **more,
    }


def test_the_figures_are_those_of_merges_that_are_written_and_evaluated(
    base: Path, donor: Path, text: Path, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path / "swap.yml", swap(base, donor, "omp", dtype="float16", parameters={"k": 4})
    )
    before = sorted(tmp_path.rglob("*"))
    result = compared(config, text, "--methods", "omp", "--methods", "omp k=9", "mean")
    assert sorted(tmp_path.rglob("*")) == before, "something was written"
    names = [model["model"] for model in result["models"]]
    assert names == [str(base), "zero", "omp", "omp k=9", "mean"]
    outputs = []
    for method, settings in (
        ("zero", {}),
        ("omp", {"k": 4}),
        ("omp", {"k": 9}),
        ("mean", {}),
    ):
        out = tmp_path / f"{method}{settings.get('k', '')}"
        written = swap(base, donor, method, dtype="float16", parameters=settings)
        assert merge_here(written, out).status == 0
        outputs.append(out)
    assert_equal(result, evaluated(base, outputs, text))
    best = min(result["models"][1:], key=lambda model: model["bits_per_byte"])
    assert result["best"] == best["model"]
    for model in result["models"][1:]:
        assert model["approximated_rows"] > 0 and model["seconds"] > 0 and model["peak_bytes"] >= 0


def test_a_merge_of_several_models_is_compared_as_it_is_written(
    family: list[Path], donor: Path, text: Path, tmp_path: Path
) -> None:
    content = fine_tunes(family, donor)
    config = write_config(tmp_path / "merge.yml", content)
    result = compared(config, text, "omp", "subword input=last")
    outputs = []
    for method, settings in (
        ("zero+ties", {}),
        ("omp+ties", content["parameters"]),
        ("subword+ties", {"input": "last"}),
    ):
        out = tmp_path / method
        written = {**content, "merge_method": method, "parameters": settings}
        assert merge_here(written, out).status == 0
        outputs.append(out)
    assert_equal(result, evaluated(family[0], outputs, text))
    assert [model["merge_method"] for model in result["models"][1:]] == [
        *("zero+ties", "omp+ties", "subword+ties")
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_source": "union"},
        {
            "models": None,
            "slices": [{"sources": [{"model": "BASE", "layer_range": [0, 1]}]}] * 2,
            "parameters": {"match_donor_rows": True},
        },
    ],
    ids=["a union", "a stack of layers"],
)
def test_other_outputs_are_compared_as_they_are_written(
    settings: dict[str, Any],
    family: list[Path],
    donor: Path,
    text: Path,
    tmp_path: Path,
    models: Any,
) -> None:
    tied = models("tied", "sentencepiece_bpe", layers=1, hidden=16, tied=True)
    content = swap(tied, donor, "mean", **settings)
    if content["tokenizer_source"] == "union":
        narrow = models("narrow", "byte_level", hidden=16, layers=1, seed=1, tied=True)
        content["models"].append({"model": str(narrow)})
        content |= {"merge_method": "mean+linear"}
        content["parameters"] = {"weight": 0.5}
    content = yaml.safe_load(
        json.dumps({k: v for k, v in content.items() if v is not None}).replace("BASE", str(tied))
    )
    config = write_config(tmp_path / "config.yml", content)
    result = compared(config, text, "mean")
    out = tmp_path / "out"
    assert merge_here(content, out).status == 0
    ours = [model for model in result["models"] if model["model"] != "zero"]
    assert ours[1]["rows"] == len(AutoTokenizer.from_pretrained(out)) or "match_donor_rows" in str(
        content
    )
    theirs = evaluated(tied, [out], text)
    for one, other in zip(ours, theirs["models"], strict=True):
        for key in other.keys() - MEASURED_APART:
            assert one[key] == other[key], (one["model"], key)


def test_the_lines_to_paste_make_the_best_merge(
    family: list[Path], donor: Path, text: Path, tmp_path: Path
) -> None:
    content = fine_tunes(family, donor)
    config = write_config(tmp_path / "merge.yml", content)
    result = compared(config, text, "kriging neighbors=3", "mean")
    lines = yaml.safe_load(result["yaml"])
    pasted = {**{k: v for k, v in content.items() if k != "parameters"}, **lines}
    out = tmp_path / "out"
    assert merge_here(pasted, out).status == 0
    best = next(model for model in result["models"] if model["model"] == result["best"])
    found = evaluated(family[0], [out], text)["models"][1]
    assert best["bits_per_byte"] == found["bits_per_byte"]


def test_parameters_of_another_method_go_and_those_of_the_merge_stay(
    family: list[Path], donor: Path, text: Path, tmp_path: Path
) -> None:
    """A `k` that stands at a slice of layers belongs to `omp`: other methods must not see it."""
    content = fine_tunes(family, donor, merge_method="omp+linear")
    content["parameters"] = {"match_donor_rows": True}
    content["slices"] = [
        {
            "sources": [
                {"model": model["model"], "layer_range": [0, 1], "parameters": {"weight": 0.5}}
                for model in content.pop("models")
            ],
            "parameters": {"k": 4, "rescale_norms": True},
        }
    ]
    config = write_config(tmp_path / "merge.yml", content)
    result = compared(config, text, "mean", "zero", "omp k=3")
    assert "mean" in [model["model"] for model in result["models"]] and not result["left_out"]
    for model in result["models"][1:]:
        expected = {"match_donor_rows": True, **({"k": 3} if "omp" in model["model"] else {})}
        assert model["parameters"] == expected
    # The slice is not as it was, so that all of the config is shown.
    written = yaml.safe_load(result["yaml"])
    assert written["slices"][0]["sources"][0]["parameters"] == {"weight": 0.5}
    assert "k" not in (written["slices"][0].get("parameters") or {})


def test_by_default_every_method_that_the_donor_allows(
    base: Path, donor: Path, text: Path, tmp_path: Path
) -> None:
    from mergekit_omp.approximation import APPROXIMATIONS

    config = write_config(tmp_path / "swap.yml", swap(base, donor, "wechsel"))
    whole = compared(config, text)
    names = [model["model"] for model in whole["models"][1:]]
    assert names[:2] == ["zero", "wechsel"]
    assert sorted(names) == sorted(APPROXIMATIONS.keys() - {"zett"})
    assert [one["method"] for one in whole["left_out"]] == ["zett"]
    assert "hypernetwork" in whole["left_out"][0]["reason"]

    bare = tmp_path / "bare"
    AutoTokenizer.from_pretrained(donor).save_pretrained(bare)
    config = write_config(tmp_path / "bare.yml", swap(base, bare, "mean"))
    some = compared(config, text)
    names = [model["model"] for model in some["models"][1:]]
    assert sorted(names) == ["mean", "normal", "subword", "zero"]
    for one in some["left_out"]:
        assert str(bare) in one["reason"] or one["method"] == "zett"
    refused = invoke("compare", config, "--text", text, "mean", "omp k=4")
    assert refused.exit_code == 1
    assert "has no weights" in refused.stderr and "need no donor weights" in refused.stderr


def test_a_screen_of_80_columns_and_a_sentence_for_what_is_not_told_apart(
    base: Path, donor: Path, text: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "swap.yml", swap(base, donor, "mean"))
    # Two names for one method.
    asked = ("mean rescale_norms=false", "mean")
    done = invoke("compare", config, "--text", text, "--split", "line", *asked)
    assert done.exit_code == 0, done.output
    lines = done.stdout.split("\n")
    named = (str(base), str(config))
    assert all(len(line) <= 80 or any(name in line for name in named) for line in lines), lines
    assert asked[0] in lines, "a long name has a line of its own"
    said = " ".join(done.stdout.split())
    assert "merge_method: " in done.stdout
    result = compared(config, text, *asked)
    if result["not_told_apart"]:
        assert f"does not tell it apart from {' and '.join(result['not_told_apart'])}" in said
    else:
        assert f"{result['best']} is best" in said
    (pair,) = [p for p in result["differences"] if {p["model"], p["minus"]} == set(asked)]
    assert (pair["bits_per_byte"], pair["interval"], pair["clear"]) == (0, [0, 0], False)
    # What takes long is told on the other stream, and the body is merged once.
    assert done.stderr.count("merging the body: 100%") == 1
    assert "3 of 3: mean" in done.stderr


def test_a_page_with_the_same_figures(base: Path, donor: Path, text: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "swap <b>.yml", swap(base, donor, "mean"))
    page = tmp_path / "compared.html"
    words = (config, "--text", text, "--split", "line", "mean", "zett", "--html", page, "--json")
    done = invoke("compare", *words, "--quiet")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    held = page.read_text()
    for model in result["models"]:
        assert f"{model['bits_per_byte']:.4f}" in held
    assert "Left out: zett." in held and "swap &lt;b&gt;.yml" in held and "<b>" not in held
    assert held.count("<svg") == 1 and "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", held)
    # It is written over, and nothing else is.
    other = tmp_path / "notes.html"
    other.write_text("<p>mine")
    refused = invoke("compare", config, "--text", text, "--html", other)
    assert refused.exit_code == 1 and "Name another file with --html" in refused.stderr
    assert other.read_text() == "<p>mine"
    assert invoke("compare", *words, "--quiet").exit_code == 0


def test_with_one_document_there_is_no_interval(
    base: Path, donor: Path, text: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "swap.yml", swap(base, donor, "mean"))
    done = invoke("compare", config, "mean", "--text", text, "--split", "file")
    assert done.exit_code == 0, done.output
    assert "There is one document: cut the text" in " ".join(done.stdout.split())
    assert "One document gives no interval" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["krigin"], 1, "There is no method 'krigin'. Did you mean kriging? Choose among"),
        (
            ["omp+ties"],
            1,
            "'omp+ties' names a merge method too, and that is the config's: write 'omp'",
        ),
        (["omp kk=3"], 1, "'omp kk=3': 'omp' has no parameter 'kk'. Did you mean 'k'?"),
        (["omp k=none"], 1, "'omp k=none': parameter k: "),
        (["omp k=0"], 1, "'omp k=0': parameter k: input should be greater than or equal to 1"),
        (["omp k"], 2, "'k' is not NAME=VALUE"),
        (["omp k=1 k=2"], 2, "k is set twice"),
        (["omp 'k=1"], 2, "is no method with parameters"),
        (["--context", "999999"], 1, "positions: write a number from 1 to"),
        (["--device", "nowhere"], 1, "'nowhere' cannot be used"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(
    arguments: list[str],
    status: int,
    said: str,
    base: Path,
    donor: Path,
    text: Path,
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path / "swap.yml", swap(base, donor, "mean"))
    done = invoke("compare", config, "--text", text, *arguments)
    assert done.exit_code == status, done.output
    assert said in done.stderr
    assert done.stderr.count("Error") == 1 and not done.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokenizer_source": None}, "the config names none"),
        ({"merge_method": "kriggin"}, "'kriggin' is no method of mergekit or mergekit-omp"),
        ({"tokenizer_source": "BASE"}, "The merge approximates no row"),
        ({"base_model": "GONE", "models": [{"model": "GONE"}]}, "is not there"),
        ({"tokenizer_source": "GONE"}, "is not there"),
        ({"models": [{"model": "BASE+adapter"}]}, "Add the option --lora-merge-cache"),
        ({"parameters": {"weigth": 1}}, "has no parameter 'weigth'"),
    ],
    ids=["no source", "no method", "nothing missing", "no model", "no donor", "a LoRA", "a typo"],
)
def test_configs_that_cannot_be_compared_are_refused_in_a_sentence(
    change: dict[str, Any], said: str, base: Path, donor: Path, text: Path, tmp_path: Path
) -> None:
    content = json.dumps({**swap(base, donor, "mean"), **change})
    content = content.replace("BASE", str(base)).replace("GONE", str(tmp_path / "gone"))
    kept = {key: value for key, value in json.loads(content).items() if value is not None}
    config = write_config(tmp_path / "swap.yml", kept)
    done = invoke("compare", config, "--text", text, "mean")
    assert done.exit_code == 1, done.output
    assert said in done.stderr, done.stderr
    assert sum(line.startswith("Error: ") for line in done.stderr.splitlines()) == 1
    assert not done.stdout


@pytest.mark.parametrize(
    ("module", "option", "said"),
    [
        ("ray", ["--ray"], "pip install 'mergekit-omp[ray]'"),
        ("matplotlib", ["--html", "page.html"], "[report]', or leave --html out."),
    ],
)
def test_an_extra_that_is_missing_is_named_before_anything_else(
    module: str,
    option: list[str],
    said: str,
    base: Path,
    donor: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    config = write_config(tmp_path / "swap.yml", swap(base, donor, "mean"))
    done = invoke("compare", config, "--text", text, *option)
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: ") and said in done.stderr


def test_a_text_is_asked_for(base: Path, donor: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "swap.yml", swap(base, donor, "mean"))
    assert "name a text with --text" in invoke("compare", config).stderr
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    done = invoke("compare", config, "--text", empty)
    assert done.exit_code == 1 and "there is no text" in done.stderr
    file = tmp_path / "list.yml"
    file.write_text("- a\n- b\n")
    done = invoke("compare", file, "--text", empty)
    assert done.exit_code == 1 and done.stderr.startswith("Error: ")


def test_a_candidate_that_cannot_run_is_left_out_and_the_others_are_not(
    base: Path, donor: Path, text: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "swap.yml", swap(base, donor, "passthrough"))
    result = compared(config, text, "mean", "zett", "subword")
    assert [model["model"] for model in result["models"][1:]] == ["zero", "mean", "subword"]
    # The config's method is mergekit's own: each method goes in front of it.
    assert result["yaml"] == f"merge_method: {result['best']}\n"
    (left_out,) = result["left_out"]
    assert left_out["method"] == "zett" and "needs a `hypernetwork`" in left_out["reason"]


def test_a_model_larger_than_memory_is_refused(
    base: Path, donor: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    config = write_config(tmp_path / "swap.yml", swap(base, donor, "mean"))
    done = invoke("compare", config, "--text", text, "mean")
    assert done.exit_code == 1
    assert "0.0 GB are free" in done.stderr and "mergekit-omp evaluate" in done.stderr


def test_a_model_with_an_adapter(
    base: Path, donor: Path, text: Path, tmp_path: Path, merge: Callable[..., Path]
) -> None:
    import peft
    import torch
    from small_models import load

    model, tokenizer = load(base)
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(model, settings).save_pretrained(tmp_path / "lora")
    content = swap(base, donor, "mean")
    reference = f"{base}+{tmp_path / 'lora'}"
    content |= {"base_model": reference, "models": [{"model": reference}]}
    config = write_config(tmp_path / "swap.yml", content)
    cache = ("--lora-merge-cache", str(tmp_path / "cache"))
    result = compared(config, text, "mean", *cache)
    out = merge(content, "out", *cache)
    (merged,) = (tmp_path / "cache").iterdir()
    tokenizer.save_pretrained(merged)
    theirs = evaluated(merged, [out], text)["models"]
    assert result["base"] == reference
    assert result["models"][0]["bits_per_byte"] == theirs[0]["bits_per_byte"]
    assert result["models"][2]["bits_per_byte"] == theirs[1]["bits_per_byte"]
