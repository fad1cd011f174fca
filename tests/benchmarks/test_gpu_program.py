"""The program for a GPU works before there is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_the_program_for_a_gpu_runs_on_a_cpu() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--device", "cpu", "--tiny"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert "| 900 | 64 | `auto` (" in done.stdout
    assert done.stdout.count(" | 20/20 | ") == 2
    assert "`kriging`, 300 anchors, 40 missing, 32 dimensions" in done.stdout
    assert "| `omp` of unigram into byte_level, 32 dimensions, `--no-cuda` | " in done.stdout
