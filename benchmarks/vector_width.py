"""What 512-bit vectors are worth to the innermost loop of a Gram search: `combine` with and without.

    python benchmarks/vector_width.py

Two processes take turns; each prints the best of many passes, in 10^9 multiply-adds a second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

ITERATIONS, SUPPORT, ATOMS = 16, 64, 5120
PASSES = 300


def rate() -> float:
    """The best rate of `combine` in one thread, in multiply-adds a second."""
    import numpy as np

    from mergekit_omp.pursuit.tiles import TILE, combine

    draw = np.random.default_rng(0)
    gram = draw.integers(-3000, 3000, (600, ATOMS)).astype(np.int16)
    support = draw.permutation(600)[:SUPPORT]
    weights = draw.standard_normal((ITERATIONS, SUPPORT)).astype(np.float32)
    out = np.zeros((ITERATIONS, TILE + 16), np.float32)
    best = float("inf")
    for _ in range(PASSES):
        start = time.perf_counter()
        for low in range(0, ATOMS, TILE):
            combine(gram, support, SUPPORT, weights, ITERATIONS, low, low + TILE, out)
        best = min(best, time.perf_counter() - start)
    return ITERATIONS * SUPPORT * ATOMS / best


def main() -> None:
    import llvmlite.binding as llvm

    print(f"processor: {llvm.get_host_cpu_name()}")
    # Features that are named are taken as they are, without the plugin's own choice.
    as_llvm_has_it = {"NUMBA_CPU_FEATURES": llvm.get_host_cpu_features().flatten()}
    for _ in range(3):
        for name, more in (("as LLVM chooses", as_llvm_has_it), ("as here", {})):
            done = subprocess.run(
                [sys.executable, __file__, "rate"],
                env={**os.environ, "OMP_NUM_THREADS": "1", **more},
                capture_output=True,
                text=True,
                check=True,
            )
            print(f"{name:16} {float(done.stdout) / 1e9:6.1f} G multiply-adds a second")


if __name__ == "__main__":
    print(rate()) if sys.argv[1:] == ["rate"] else main()
