"""The figures of `mergekit-omp compare`, against merges that are written and evaluated one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from comparing import MEASURED_APART, compared, evaluated, fine_tunes
from merges import merge_here, swap, write_config
from transformers import AutoTokenizer


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
