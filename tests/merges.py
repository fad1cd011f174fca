"""Merges by mergekit's own command, in this process or in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit status and all that it printed."""

    status: int
    text: str


def write_config(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def mergekit_yaml(config: Path, out: Path, *options: str, **environment: str) -> Ran:
    """The real command in a process of its own."""
    command = Path(sys.executable).with_name("mergekit-yaml")
    done = subprocess.run(
        [str(command), str(config), str(out), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        check=False,
    )
    return Ran(done.returncode, done.stdout + done.stderr)


def merge_here(
    config: dict[str, Any], out: Path, *options: str, config_at: Path | None = None
) -> Ran:
    """mergekit-yaml's own click command, in this process: the same code, no start-up time."""
    from mergekit.scripts.run_yaml import main

    path = write_config(config_at or out.with_name(out.name + ".yml"), config)
    result = CliRunner().invoke(main, [str(path), str(out), "--quiet", *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.output)


def swap(base: Path, donor: Path | str, method: str = "omp", **more: Any) -> dict[str, Any]:
    """The config that swaps a tokenizer and does nothing else."""
    return {
        "merge_method": method,
        "base_model": str(base),
        "models": [{"model": str(base)}],
        "tokenizer_source": str(donor),
        "dtype": "float32",
        **more,
    }


def record(path: Path) -> dict[str, Any]:
    """What a merge says of itself in `tokenizer_transplant.json`."""
    return json.loads((path / "tokenizer_transplant.json").read_text())
