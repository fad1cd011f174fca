"""Which methods `mergekit-omp compare` compares, and with which parameters."""

from __future__ import annotations

from pathlib import Path

import yaml
from comparing import compared, fine_tunes, invoke
from merges import swap, write_config
from transformers import AutoTokenizer


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
