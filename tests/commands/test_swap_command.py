"""`mergekit-omp swap`: the same merge as mergekit-yaml's, without a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from merges import merge_here

from mergekit_omp.cli import main


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["swap", *words])


@pytest.fixture
def two(models: Any) -> list[str]:
    base = models("sp", "sentencepiece_bpe")
    return [str(base), str(models("bytes", "byte_level", hidden=48))]


def test_it_is_the_merge_of_the_config_that_it_shows_and_leaves(
    two: list[str], tmp_path: Path
) -> None:
    settings = ["--method", "omp", "--set", "k=8", "--set", "match_donor_rows=true"]
    # mergekit's own options pass through: shards of a few thousand parameters.
    out = tmp_path / "by_swap" / "out"
    ran = run(*two, str(out), *settings, "--dtype", "bfloat16", "--out-shard-size", "20K")
    assert ran.exit_code == 0, ran.output
    left = (out / "mergekit_config.yml").read_text(encoding="utf-8")
    assert left in ran.output
    config = yaml.safe_load(left)
    assert config == {
        "merge_method": "omp",
        "base_model": two[0],
        "models": [{"model": two[0]}],
        "tokenizer_source": two[1],
        "parameters": {"k": 8, "match_donor_rows": True},
        "dtype": "bfloat16",
    }
    assert len(list(out.glob("*.safetensors"))) > 1
    again = tmp_path / "by_config" / "out"
    again.parent.mkdir()
    done = merge_here(config, again, "--out-shard-size", "20K")
    assert done.status == 0, done.text
    by_swap, by_config = ({p.name: p.read_bytes() for p in o.iterdir()} for o in (out, again))
    assert by_swap == by_config


def test_quiet_is_quiet_and_kriging_is_the_default(
    two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder's bare name could be that of a model on a hub: mergekit's card would ask.
    monkeypatch.chdir(Path(two[0]).parent)
    base, donor = (Path(path).name for path in two)
    ran = run(base, donor, str(tmp_path / "out"), "--quiet")
    assert ran.exit_code == 0, ran.exception
    assert ran.output == ""
    config = yaml.safe_load((tmp_path / "out" / "mergekit_config.yml").read_text())
    assert config["merge_method"] == "kriging"
    assert config["base_model"] == f"./{base}"
    assert config["tokenizer_source"] == f"./{donor}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "krigin"], "Did you mean kriging?"),
        (["--set", "k"], "'k' is not NAME=VALUE"),
        (["--set", "k=1", "--set", "k=2"], "k is set twice"),
        (["--set", "k=[1"], "the value of k is not YAML: [1"),
    ],
)
def test_a_wrong_word_is_named(words: list[str], said: str, tmp_path: Path) -> None:
    ran = run("base", "donor", str(tmp_path / "out"), *words)
    assert ran.exit_code == 2
    assert said in ran.output
    assert not (tmp_path / "out").exists()


def test_a_misspelt_parameter_is_mergekits_error(two: list[str], tmp_path: Path) -> None:
    ran = run(*two, str(tmp_path / "out"), "--set", "neighbours=3", "--quiet")
    assert ran.exit_code == 1
    assert "neighbours" in ran.output and "neighbors" in ran.output
    assert not (tmp_path / "out").exists()


def test_linear_is_the_approximation(two: list[str], tmp_path: Path) -> None:
    ran = run(*two, str(tmp_path / "out"), "--method", "linear", "--quiet")
    assert ran.exit_code == 0, ran.output
    config = yaml.safe_load((tmp_path / "out" / "mergekit_config.yml").read_text())
    assert config["merge_method"] == "linear+passthrough"
