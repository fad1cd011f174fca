"""A config with an error gets the same message as from mergekit-yaml, and nothing is written.

Where mergekit ends in a traceback of its own, `inspect` has a sentence.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from mergekit.scripts.run_yaml import main as mergekit_yaml_here
from merges import mergekit_yaml, swap

from mergekit_omp.cli import main


def said(command: Any, arguments: list[str]) -> tuple[int, str, str]:
    """Exit status, message on the terminal, and the error that would end in a traceback."""
    result = CliRunner().invoke(command, arguments)
    error = result.exception
    exits = error is None or isinstance(error, SystemExit)
    traced = "" if exits else f"{type(error).__name__}: {error}"
    lines = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    return result.exit_code, "\n".join(lines), traced


def both_say(text: str, folder: Path, *options: str) -> str:
    path = folder / "config.yml"
    path.write_text(text)
    out = folder / "out"
    theirs = said(mergekit_yaml_here, [str(path), str(out), "--quiet", *options])
    shutil.rmtree(out, ignore_errors=True)
    before = sorted(folder.rglob("*"))
    ours = said(main, ["inspect", str(path), *options])
    assert ours[0] == theirs[0] == 1
    assert ours[2] == ""
    assert ours[1].startswith("Error: ") and "\n" not in ours[1]
    if not theirs[2]:
        assert ours[1] == theirs[1]
    assert sorted(folder.rglob("*")) == before
    return ours[1]


TEXTS = {
    "no YAML": ("merge_method: [omp", "is not YAML"),
    "no mapping": ("- omp", "MergeConfiguration"),
    "empty": ("", "found None"),
    "no method": ("models: [{model: BASE}]", "merge_method"),
    "no models": ("merge_method: omp", "Exactly one of"),
    "an unknown method": ("{merge_method: oomp, models: [{model: BASE}]}", "oomp"),
    "an unknown inner method": (
        "{merge_method: omp+tiess, base_model: BASE, models: [{model: BASE}],"
        " tokenizer_source: DONOR}",
        "Did you mean omp+ties?",
    ),
    "a missing model": (
        "{merge_method: omp, base_model: BASE-x, models: [{model: BASE-x}],"
        " tokenizer_source: DONOR}",
        "BASE-x",
    ),
    "a missing model of a plain merge": (
        "{merge_method: linear, models: [{model: BASE-x}]}",
        "BASE-x",
    ),
    "a plain merge without weights": (
        "{merge_method: linear, models: [{model: BASE}]}",
        "weight",
    ),
    "two sources": (
        "{merge_method: omp, models: [{model: BASE}], tokenizer_source: DONOR,"
        " tokenizer: {source: DONOR}}",
        "Cannot specify both",
    ),
    "a LoRA without a cache": (
        "{merge_method: omp, models: [{model: BASE+lora}], tokenizer_source: DONOR}",
        "cache dir",
    ),
    "a dtype": (
        "{merge_method: omp, base_model: BASE, models: [{model: BASE}], tokenizer_source: DONOR,"
        " dtype: float99}",
        "float99",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_mergekits_own_errors(name: str, base: Path, donor: Path, tmp_path: Path) -> None:
    text, expected = TEXTS[name]
    message = both_say(text.replace("BASE", str(base)).replace("DONOR", str(donor)), tmp_path)
    assert expected.replace("BASE", str(base)) in message


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "no source": ({"tokenizer_source": None}, "Add `tokenizer_source:`"),
    "a source that is nowhere": ({"tokenizer_source": "./nowhere/at/all"}, "no such directory"),
    "a misspelt parameter": ({"parameters": {"kk": 3}}, "Did you mean 'k'?"),
    "a bad parameter": ({"parameters": {"k": 0}}, "greater than or equal to 1"),
    "a bad parameter of one tensor": (
        {"parameters": {"k": [{"filter": "lm_head", "value": "x"}, {"value": 3}]}},
        "lm_head.weight",
    ),
    "padding": (
        {"tokenizer_source": None, "tokenizer": {"source": "DONOR", "pad_to_multiple_of": 0}},
        "pad_to_multiple_of",
    ),
    "rows of a union": (
        {"tokenizer_source": "union", "parameters": {"match_donor_rows": True}},
        "needs one donor",
    ),
    "a module": ({"models": None, "modules": {"txt": {"models": [{"model": "BASE"}]}}}, "'txt'"),
    "a token": (
        {"tokenizer_source": None, "tokenizer": {"source": "DONOR", "tokens": {"<x>": {}}}},
        "'<x>'",
    ),
    "a file of vectors": (
        {"merge_method": "focus", "parameters": {"auxiliary": "/no/such.vec"}},
        "/no/such.vec",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_our_errors(name: str, base: Path, donor: Path, tmp_path: Path) -> None:
    change, expected = CHANGES[name]
    config = {**swap(base, donor), **change}
    config = {key: value for key, value in config.items() if value is not None}
    text = yaml.safe_dump(config).replace("BASE", str(base)).replace("DONOR", str(donor))
    message = both_say(text, tmp_path)
    assert message.startswith("Error: ")
    assert expected in message


def test_models_that_lack_something(base: Path, donor: Path, models: Any, tmp_path: Path) -> None:
    wide = models("wide", "sentencepiece_bpe", hidden=64)
    bare, weightless = tmp_path / "bare", tmp_path / "weightless"
    shutil.copytree(base, bare)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    shutil.copytree(donor, weightless)
    (weightless / "model.safetensors").unlink()
    cases = {
        f"{bare} has no tokenizer": swap(bare, donor),
        "has no weights: neither model.safetensors": swap(base, weightless),
        "rows of model.embed_tokens.weight have different lengths": swap(
            base, donor, "omp+linear", models=[{"model": str(base)}, {"model": str(wide)}]
        ),
        f"The model {weightless} has no weights": swap(weightless, donor),
    }
    for expected, config in cases.items():
        assert expected in both_say(yaml.safe_dump(config), tmp_path)


def test_no_such_file(tmp_path: Path) -> None:
    status, message, traced = said(main, ["inspect", str(tmp_path / "none.yml")])
    assert status and not traced
    assert "none.yml" in message


def test_the_real_commands_end_alike(base: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(swap(base, "./nowhere/at/all")))
    theirs = mergekit_yaml(path, tmp_path / "out")
    command = Path(sys.executable).with_name("mergekit-omp")
    ours = subprocess.run(
        [str(command), "inspect", str(path)], capture_output=True, text=True, check=False
    )
    assert ours.returncode == theirs.status == 1
    assert ours.stderr.splitlines()[-1] == theirs.text.splitlines()[-1]
    assert ours.stdout == ""
