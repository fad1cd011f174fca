"""What the tests of `mergekit-omp inspect` share: the command, run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from merges import Ran, write_config


@pytest.fixture
def inspected(tmp_path: Path) -> Callable[..., Ran]:
    """Run the command on a config; an error that is no exit is raised."""

    def run(config: dict[str, Any], *options: str) -> Ran:
        from mergekit_omp.cli import main

        path = write_config(tmp_path / "inspected.yml", config)
        result = CliRunner().invoke(main, ["inspect", str(path), *options])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.output)

    return run


@pytest.fixture
def facts(inspected: Any) -> Callable[..., dict[str, Any]]:
    """The JSON that the command prints for a config that it accepts."""

    def run(config: dict[str, Any], *options: str) -> dict[str, Any]:
        done = inspected(config, "--json", *options)
        assert done.status == 0, done.text
        return json.loads(done.text[done.text.index("{") :])

    return run


@pytest.fixture(scope="module")
def base(models: Any) -> Path:
    return models("sp", "sentencepiece_bpe")


@pytest.fixture(scope="module")
def donor(models: Any) -> Path:
    return models("bytes", "byte_level", hidden=48, seed=1)
