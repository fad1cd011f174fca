"""What a search takes beside its inputs stays within what its plan says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from here import EXACT_SEARCHES

PROGRAM = """
import json, re, sys
from pathlib import Path
import torch
from mergekit_omp.pursuit.choice import choose
from mergekit_omp.pursuit.problem import prepare
from mergekit_omp.pursuit.solve import solve_planned

def resident(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def problem(targets, atoms):
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randn(count, 256, generator=draw) for count in (targets, atoms)]
    return prepare(*rows, 32, None)

search, memory = sys.argv[1], int(sys.argv[2])
small = problem(8, 1000)
solve_planned(small, choose(small, search, None))  # loads what is compiled
whole = problem(1000, 12000)
plan = choose(whole, search, memory)
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
solve_planned(whole, plan)
taken = resident("VmHWM") - before
print(json.dumps({"taken": taken, "plan": plan.bytes, "gram": str(plan.gram)}))
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells how much was taken"
)
@pytest.mark.parametrize("search", EXACT_SEARCHES)
def test_peak_memory_is_within_the_plan(search: str) -> None:
    megabytes = 400 if search == "gram" else 80
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, search, str(megabytes << 20)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["plan"] <= megabytes << 20
    assert told["taken"] <= 1.1 * told["plan"]
