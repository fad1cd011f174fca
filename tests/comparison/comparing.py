"""`compare` and `evaluate` as a user calls them, and what they are called on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from mergekit_omp.cli import main

MEASURED_APART = {"model", "merge_method", "parameters", "seconds", "peak_bytes"}
"""What a comparison says of a model beyond `evaluate`, or in other words."""


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def compared(config: Path, text: Path, *arguments: str) -> dict[str, Any]:
    done = invoke(
        "compare", config, "--text", text, "--split", "line", "--json", "--quiet", *arguments
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def evaluated(base: Path, outputs: list[Path], text: Path) -> dict[str, Any]:
    done = invoke(
        *("evaluate", base, *outputs, "--text", text, "--split", "line", "--base", base),
        *("--json", "--quiet"),
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def fine_tunes(family: list[Path], donor: Path, **more: Any) -> dict[str, Any]:
    """A merge of two models, in another dtype than theirs."""
    return {
        "merge_method": "omp+ties",
        "base_model": str(family[0]),
        "models": [
            {"model": str(path), "parameters": {"weight": 0.5, "density": 0.6}}
            for path in family[1:]
        ],
        "tokenizer_source": str(donor),
        "dtype": "bfloat16",
        "parameters": {"k": [{"filter": "lm_head", "value": 3}, {"value": 5}]},
        **more,
    }
