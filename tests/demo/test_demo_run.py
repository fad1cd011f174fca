"""The demo from end to end, with models that are trained for a moment."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner
from small_demo import SMALL_DEMO

import mergekit_omp
from mergekit_omp.cli import main
from mergekit_omp.demo import run as demo_run
from mergekit_omp.demo.corpus import TextKind
from mergekit_omp.demo.run import RUNS, CommandFailed, Run, run_demo
from mergekit_omp.demo.table import WIDTH, Row, rendered, wrapped


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


def test_a_failing_command_is_shown_whole(cache, tmp_path):
    broken = Run("broken", ("mergekit-yaml", "no-such-config.yml", "out"), "out")
    with pytest.raises(CommandFailed) as failure:
        run_demo(cache, tmp_path, spec=SMALL_DEMO, runs=[broken], echo=lambda line: None)
    assert failure.value.returncode != 0
    assert "no-such-config.yml" in failure.value.output
    assert "mergekit-yaml no-such-config.yml out" in str(failure.value)


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


def test_the_command_passes_a_failure_on(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise CommandFailed(["mergekit-yaml", "omp.yml", "omp"], 3, "line one\nline two")

    monkeypatch.setattr(demo_run, "run_demo", fail)
    result = CliRunner().invoke(main, ["demo", "--cache", str(tmp_path)])
    assert result.exit_code == 3
    assert "line one\nline two" in result.output
    assert "`mergekit-yaml omp.yml omp` failed with exit status 3" in result.output


def test_the_command_passes_its_options_on(monkeypatch, tmp_path):
    seen = {}

    def remember(cache_dir, folder, **options):
        seen.update(options, cache=cache_dir, folder=folder)

    monkeypatch.setattr(demo_run, "run_demo", remember)
    keep = tmp_path / "kept"
    result = CliRunner().invoke(
        main,
        ["demo", "--cache", str(tmp_path), "--keep", str(keep), "--threads", "3", "--fresh"],
    )
    assert result.exit_code == 0, result.output
    assert (seen["cache"], seen["folder"]) == (tmp_path, keep)
    assert (seen["threads"], seen["fresh"]) == (3, True)
    assert str(keep) in result.output


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
