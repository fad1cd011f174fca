"""The command line around the commands: `python -m`, completion, exit status, environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import mergekit_omp
from mergekit_omp.__main__ import main as python_m
from mergekit_omp.cli import NEED_THE_PLUGIN, main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


def test_python_m_runs_the_subcommands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def said(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["-m", *words])
        with pytest.raises(SystemExit) as ended:
            python_m()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out + captured.err

    status, text = said("--version")
    assert (status, text.split()[-1]) == (0, mergekit_omp.__version__)
    status, text = said("inspect", "--help")
    assert status == 0 and "Usage: python -m mergekit_omp inspect" in text
    assert said("inspect", str(tmp_path / "none.yml"))[0] == 2
    # Without a word it says what it can do.
    status, text = said()
    assert status == 0 and all(name in text for name in main.commands)
    # Anything else is a config, and mergekit's business.
    status, text = said("config.yml", "--help")
    assert status == 0 and "--lora-merge-cache" in text


@pytest.mark.parametrize("command", NEED_THE_PLUGIN)
def test_commands_that_plan_a_merge_say_that_the_plugin_is_off(command: str) -> None:
    ran = CliRunner(env={"MERGEKIT_OMP_DISABLE": "1"}).invoke(main, [command, "."])
    assert ran.exit_code == 1
    assert ran.output.startswith("Error: MERGEKIT_OMP_DISABLE turns mergekit-omp off.")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["mergekit-omp", "ins"], "inspect"),
        (["mergekit-omp", "report", "--mark"], "--markdown"),
        # mergekit's options, which are loaded when the command is used
        (["mergekit-omp", "inspect", "--lazy"], "--lazy-unpickle"),
    ],
)
def test_the_shell_completes(
    typed: list[str],
    offered: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_MERGEKIT_OMP_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(typed))
    monkeypatch.setenv("COMP_CWORD", str(len(typed) - 1))
    with pytest.raises(SystemExit):
        main(prog_name="mergekit-omp")
    assert f"plain,{offered}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_as_the_page_has_it(shell: str) -> None:
    """The page's lines in the shell itself, where it is installed; its source, where it is not."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (lines,) = [block for block in blocks if f"{shell}_source" in block]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = {
        "bash": (["--norc", "-c"], "complete -p mergekit-omp"),
        "zsh": (["-f", "-c"], 'echo "${_comps[mergekit-omp]}"'),
        "fish": (["--no-config", "-c"], "complete -c mergekit-omp"),
    }
    options, shows = run[shell]
    if shutil.which(shell) is None:
        source = CliRunner(env={"_MERGEKIT_OMP_COMPLETE": f"{shell}_source"})
        assert "mergekit-omp" in source.invoke(main, [], prog_name="mergekit-omp").output
        return
    done = subprocess.run(
        [shell, *options, f"{lines}{shows}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
        check=False,
    )
    assert "mergekit_omp_completion" in done.stdout, done.stderr


def test_every_command_and_environment_variable_is_on_the_page() -> None:
    for name in NEED_THE_PLUGIN:
        (row,) = [line for line in PAGE.splitlines() if line.startswith("| `MERGEKIT_OMP_DISABLE")]
        assert f"`{name}`" in row
    for name in main.commands:
        assert f"`mergekit-omp {name}`" in PAGE
    code = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "mergekit_omp").rglob("*.py"))
    read = set(re.findall(r"environ\.(?:get|setdefault)\(\"(\w+)\"", code))
    assert {"MERGEKIT_OMP_DISABLE", "XDG_CACHE_HOME"} <= read
    for variable in read:
        assert f"`{variable}" in PAGE, variable
