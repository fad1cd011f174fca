"""`heal` as a user calls it, and what it reads and leaves."""

from __future__ import annotations

from pathlib import Path

import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from mergekit_omp.cli import main

ROOT = Path(__file__).parents[2]
SHORT = (
    *("--steps", "8", "--every", "4", "--batch-size", "4", "--context", "32"),
    *("--learning-rate", "0.004"),
)


def heal(out: Path, healed: Path, *options: str | Path, text: Path | None = None) -> Result:
    words = ["heal", out, healed, "--text", text or licence(out.parent), *SHORT, *options]
    done = CliRunner().invoke(main, list(map(str, words)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def licence(folder: Path) -> Path:
    """A text of five documents."""
    file = folder / "licence.txt"
    if not file.exists():
        lines = (ROOT / "LICENSE").read_text(encoding="utf-8").splitlines()
        file.write_text("\n".join(line.strip() for line in lines), encoding="utf-8")
    return file


def refused(done: Result) -> str:
    """What a healing that was refused said, in one sentence or two."""
    assert done.exit_code == 1, done.output
    (line,) = [line for line in done.output.splitlines() if line.startswith("Error: ")]
    return line


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
