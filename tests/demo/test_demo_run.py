"""The demo from end to end, with models that are trained for a moment."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest
import torch
import yaml
from click.testing import CliRunner
from small_demo import SMALL_DEMO

import mergekit_omp
from mergekit_omp.cli import main
from mergekit_omp.demo import run as demo_run
from mergekit_omp.demo.corpus import TextKind
from mergekit_omp.demo.run import RUNS, CommandFailed, Run, run_demo
from mergekit_omp.demo.table import WIDTH, Row, rendered, wrapped
from mergekit_omp.evaluation.documents import read_documents
from mergekit_omp.evaluation.evaluate import ReadingOptions, evaluate


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_swaps_and_reports(cache, tmp_path):
    said: list[str] = []
    runs = [run for run in RUNS if run.label in ("mergekit alone", "kriging")]
    rows = run_demo(cache, tmp_path, spec=SMALL_DEMO, runs=runs, echo=said.append)
    printed = "\n".join(said).splitlines()
    assert [row.label for row in rows] == ["base, own tokenizer", "mergekit alone", "kriging"]
    base, alone, kriging = rows
    vocabulary = SMALL_DEMO.donor.vocab_size
    assert (base.copied, base.new) == (None, None)
    assert alone.copied + alone.new == kriging.copied + kriging.new == vocabulary
    # Matching by bytes finds what matching by strings misses.
    assert kriging.copied > alone.copied
    assert all(0 < row.bits_per_byte < 20 for row in rows)
    assert set(base.by_kind) == set(TextKind)
    assert rendered(rows) in "\n".join(said)
    assert "$ mergekit-yaml kriging.yml kriging" in printed
    too_long = [line for line in printed if len(line) > WIDTH and str(cache) not in line]
    assert too_long == []
    # The folder is complete: a reader can run the configs again.
    assert (tmp_path / "models" / "base" / "config.json").is_file()
    assert (tmp_path / "kriging" / "tokenizer_transplant.json").is_file()
    shown = yaml.safe_load((tmp_path / "kriging.yml").read_text())
    assert shown["tokenizer_source"] == "./models/donor"
    # And compare the outputs again.
    texts = read_documents([tmp_path / "held-out.jsonl"]).documents
    again = evaluate(
        [str(tmp_path / "mergekit")], texts, reading=ReadingOptions(context=128, stride=96)
    )
    assert again["models"][0]["bits_per_byte"] == pytest.approx(alone.bits_per_byte, rel=1e-5)


@pytest.fixture
def small(monkeypatch):
    """Have the command run other commands than its own, on small models."""

    def make(*runs):
        smaller = functools.partial(run_demo, spec=SMALL_DEMO, runs=runs)
        monkeypatch.setattr(demo_run, "run_demo", smaller)

    return make


def test_a_failing_command_is_shown_whole(cache, small):
    small(Run("broken", ("mergekit-yaml", "no-such-config.yml", "out"), "out"))
    result = CliRunner().invoke(main, ["demo", "--cache", str(cache)])
    assert result.exit_code == 1
    assert "No such file or directory: 'no-such-config.yml'" in result.output
    assert "`mergekit-yaml no-such-config.yml out` failed with exit status 1" in result.output


def test_a_missing_command_is_named(tmp_path):
    missing = Run("missing", ("no-such-command",), "out")
    with pytest.raises(CommandFailed) as failure:
        demo_run.execute(missing, tmp_path)
    assert failure.value.returncode == 127
    assert "no-such-command" in failure.value.output


def test_every_config_of_a_run_is_in_the_package():
    from importlib.resources import files

    configs = files("mergekit_omp.demo") / "configs"
    for run in RUNS:
        if run.command[0] == "mergekit-yaml":
            config = yaml.safe_load((configs / run.command[1]).read_text())
            assert config["tokenizer_source"] == "./models/donor"
            assert config["models"] == [{"model": "./models/base"}]


def test_the_commands_options(cache, small, tmp_path):
    def made():
        return {path: path.stat().st_mtime_ns for path in cache.glob("*/model.safetensors")}

    small()
    keep, threads = tmp_path / "kept", torch.get_num_threads()
    try:
        words = ["demo", "--cache", str(cache), "--keep"]
        first = CliRunner().invoke(main, [*words, str(keep), "--threads", "3"])
        assert first.exit_code == 0, first.output
        assert torch.get_num_threads() == 3
        assert (
            f"Models, configs, merged models and the held-out text are in {keep}." in first.output
        )
        assert (keep / "models" / "donor" / "config.json").is_file()
        before = made()
        again = CliRunner().invoke(main, [*words, str(tmp_path / "again"), "--fresh"])
        assert again.exit_code == 0, again.output
        assert before.keys() == made().keys() and len(before) == 2
        assert all(made()[path] > time for path, time in before.items()), "trained again"
    finally:
        torch.set_num_threads(threads)


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = CliRunner().invoke(main, ["demo", "--keep", str(tmp_path)])
    assert result.exit_code == 2
    assert "not empty" in result.output


def test_version():
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert mergekit_omp.__version__ in result.output


def test_help_does_not_wait_for_torch():
    check = "import sys, mergekit_omp.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_the_table_fits_a_terminal():
    rows = [
        Row("base, own tokenizer", 2.0, dict.fromkeys(TextKind, 2.0)),
        Row("mergekit-tokensurgeon", 12.3456, dict.fromkeys(TextKind, 10.0), 99999, 99999),
    ]
    lines = rendered(rows).splitlines()
    assert all(len(line) <= WIDTH for line in lines)
    assert len(lines) == 3 + len(rows)
    assert lines[-1].split() == [
        *("mergekit-tokensurgeon", "99999", "99999"),
        *("12.346", "10.000", "10.000", "10.000"),
    ]


def test_a_sample_is_wrapped_behind_its_label():
    text = wrapped("  omp  ", "word " * 40)
    lines = text.splitlines()
    assert lines[0].startswith("  omp  word")
    assert all(line.startswith("       word") for line in lines[1:])
    assert all(len(line) <= WIDTH for line in lines)
