"""`mergekit-omp swap`: the same merge as mergekit-yaml's, without a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from mergekit.scripts.run_yaml import main as mergekit_yaml
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
        (["--set", "k="], "k is left empty"),
        (["--set", "k=null"], "k is null"),
        (["--set", "k={a: 1}"], "write a value, or {filter: TENSOR, value: VALUE}"),
        (["--method", "OMP"], "Did you mean omp?"),
        (
            ["--method", "omp+ties"],
            "A swap takes omp alone: to merge by ties as well, write a config.",
        ),
        (["-k", "16"], "Write --method omp --set k=16 here."),
        (["--approximation-method", "subword"], "Write --method subword here."),
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["base", "base", "out"], "BASE and DONOR are both ./base: there is nothing to swap."),
        (["base", "./base/", "out"], "there is nothing to swap."),
        (["", "base", "out"], "the name is empty"),
        (["base", "base", " "], "the name is empty"),
    ],
)
def test_a_wrong_name_is_named(
    words: list[str], said: str, two: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").symlink_to(two[0])
    ran = run(*words)
    assert ran.exit_code == 2 and said in ran.output, ran.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["my donor é 中", "do#nor: 'x'", r"C:\models\donor"])
def test_any_folder_will_do_and_its_config_runs_again(
    name: str, two: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base").symlink_to(two[0])
    (tmp_path / name).symlink_to(two[1])
    ran = run("~/base", name, "~/made here/out", "--method", "mean", "--quiet")
    assert ran.exit_code == 0, ran.output
    out = tmp_path / "made here" / "out"
    config = yaml.safe_load((out / "mergekit_config.yml").read_text(encoding="utf-8"))
    assert config["tokenizer_source"] == f"./{name}"
    again = tmp_path / "again" / "out"
    again.parent.mkdir()
    left = str(out / "mergekit_config.yml")
    done = CliRunner().invoke(mergekit_yaml, [left, str(again), "--quiet"])
    assert done.exit_code == 0, done.output
    ours, theirs = ({p.name: p.read_bytes() for p in o.iterdir()} for o in (out, again))
    assert ours == theirs


def test_names_that_mergekit_reads_otherwise_are_explained(
    two: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a+b", "c@d", "home"):
        (tmp_path / name).symlink_to(two[1])
    for name in ("a+b", "c@d"):
        ran = run(two[0], name, "out", "--quiet")
        assert ran.exit_code == 1
        assert f"There is ./{name}, but" in ran.output and "another name" in ran.output
    # A config has no shell that would read ~.
    config = {
        "merge_method": "mean",
        "models": [{"model": two[0]}],
        "tokenizer_source": "~/home",
    }
    done = merge_here(config, tmp_path / "out")
    assert done.status == 1 and f"write {tmp_path / 'home'}" in done.text
    assert not (tmp_path / "out").exists()
