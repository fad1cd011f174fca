"""Runs the real command for one method: `mergekit-yaml`, or the peer's `mergekit-tokensurgeon`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import yaml

from benchmarks.quality.methods import PEER, Method


def merge(method: Method, base: Path, donor: Path, out: Path, device: str = "cpu") -> None:
    """Gives `base` the tokenizer of `donor`, into `out`.

    Raises:
        RuntimeError: the command failed; with what it printed last.
    """
    if method.approximation == PEER:
        options = [
            word for name, value in method.parameters.items() for word in (f"-{name}", value)
        ]
        arguments = [PEER, base, donor, out, "-a", "omp", *options]
    else:
        written = out.with_name(out.name + ".yml")
        written.write_text(yaml.safe_dump(config(method, base, donor)), encoding="utf-8")
        arguments = ["mergekit-yaml", written, out, "--quiet"]
    if device != "cpu":
        arguments.append("--cuda")
    _run([str(argument) for argument in arguments], plugin=method.approximation != PEER)


def config(method: Method, base: Path, donor: Path) -> dict[str, object]:
    return {
        # In full, since `linear` alone is mergekit's own method.
        "merge_method": f"{method.approximation}+passthrough",
        "base_model": str(base),
        "models": [{"model": str(base)}],
        "tokenizer_source": str(donor),
        "parameters": dict(method.parameters),
        "dtype": "float32",
    }


def _run(command: list[str], *, plugin: bool) -> None:
    program = shutil.which(command[0], path=sysconfig.get_path("scripts"))
    if program is None:
        raise RuntimeError(f"there is no {command[0]} in {sysconfig.get_path('scripts')}")
    done = subprocess.run(
        [program, *command[1:]],
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "MERGEKIT_OMP_DISABLE": "" if plugin else "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-8:])
        raise RuntimeError(f"`{' '.join(command)}` failed:\n{last}")
