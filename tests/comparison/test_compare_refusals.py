"""What `mergekit-omp compare` refuses, in a sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from comparing import invoke
from merges import swap, write_config


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


def test_a_model_larger_than_memory_is_refused(
    base: Path, donor: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    config = write_config(tmp_path / "swap.yml", swap(base, donor, "mean"))
    done = invoke("compare", config, "--text", text, "mean")
    assert done.exit_code == 1
    assert "0.0 GB are free" in done.stderr and "mergekit-omp evaluate" in done.stderr
