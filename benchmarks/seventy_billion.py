"""What a swap of a model of 70 billion parameters takes, reckoned from rates that are measured here.

Llama 3's vocabulary, 80 layers, hidden size 8192, input embedding and head, and the tokenizer of a
donor of the same width with Qwen's: 109,563 anchors and 42,000 missing tokens. Time is a method's
multiply-adds (`Approximation.cost`, as in `mergekit-omp inspect`) over the rate of a float32
product on all cores with nothing else to do, and the bytes of the model over the rates of reading
and writing. For a GPU the rate is the
documented one of an H100 (67 TFLOPS in float32, which no product quite reaches). Run from the
repository: python benchmarks/seventy_billion.py
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace

import torch
from dictionaries import machine

from mergekit_omp.approximation import Sizes
from mergekit_omp.approximation.base import Approximation
from mergekit_omp.approximation.kriging import Kriging
from mergekit_omp.approximation.omp import Omp
from mergekit_omp.transplant.blocks import cut

PARAMETERS, HIDDEN, ANCHORS, MISSING = 70.6e9, 8192, 109_563, 42_000
BASE_ROWS, DONOR_ROWS = 128_256, 151_665
H100 = 67e12 / 2
"""Multiply-adds a second in float32: NVIDIA H100 SXM, data sheet."""
GPUS = 8
"""Over which `--multi-gpu` spreads the missing tokens of two tensors; the largest blocks count."""
PROBE = 1 << 30


def core() -> float:
    """Multiply-adds of a float32 product in a second of one core, whatever else it has to do."""
    threads, size = torch.get_num_threads(), 2048
    torch.set_num_threads(1)
    one = torch.ones((size, size))
    spent = []
    for _ in range(3):
        began = time.process_time()
        one @ one
        spent.append(time.process_time() - began)
    torch.set_num_threads(threads)
    return size**3 / min(spent)


def disk(folder: str) -> tuple[float, float]:
    """Bytes a second that are written and made safe, and read again, through a file of 1 GiB."""
    block = os.urandom(1 << 24)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(PROBE // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - began
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        began = time.perf_counter()
        while file.read(len(block)):
            pass
        return PROBE / written, PROBE / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default=None, help="on the disk of the models")
    parser.add_argument("--rate", type=float, help="multiply-adds a second, instead of measuring")
    given = parser.parse_args()
    print(machine())
    unit = 1 / (given.rate or core() * (os.cpu_count() or 1))
    writing, reading = disk(given.folder or tempfile.gettempdir())
    weights = 2 * PARAMETERS
    vocabulary = 2 * 2 * HIDDEN * (BASE_ROWS + 2 * DONOR_ROWS)
    layers = weights / writing + weights / reading
    print(f"float32 product: {1 / unit:.3g} multiply-adds a second")
    print(f"disk: {writing / 1e9:.2f} GB/s written, {reading / 1e9:.2f} GB/s read")
    print(f"model: {weights / 1e9:.0f} GB read and as much written, {layers / 60:.0f} min")
    print(f"vocabulary tensors of base, donor and output: {vocabulary / 1e9:.1f} GB\n")
    print(f"{'method':<10}{'adds a tensor':>15}{'2 tensors, min':>16}{'beside tensors, GB':>20}"
          f"{'a GPU, s':>10}{f'{GPUS} GPUs, s':>12}")  # fmt: skip
    methods: tuple[Approximation, ...] = (Kriging(), Omp())
    for method in methods:
        sizes = Sizes(
            missing=MISSING,
            anchors=ANCHORS,
            base_rows=BASE_ROWS,
            base_dim=HIDDEN,
            donor_dim=HIDDEN,
            other_dim=HIDDEN if isinstance(method, Kriging) else 0,
            dtype=torch.bfloat16,
        )
        cost = method.cost(sizes)
        both = 2 * cost.multiply_adds - cost.shared
        tensors = 1 if method.repeats_in_blocks else 2
        parts = cut(MISSING, GPUS * tensors // 2)
        largest = replace(sizes, missing=max(part.stop - part.start for part in parts))
        print(
            f"{method.name:<10}{cost.multiply_adds:>15.2g}"
            f"{both * unit / 60:>16.0f}{cost.bytes / 1e9:>20.1f}",
            end="",
        )
        # A pursuit is planned for this processor, whose searches a GPU has not.
        if isinstance(method, Omp):
            print(f"{'-':>10}{'-':>12}")
        else:
            spread = tensors * method.cost(largest).multiply_adds
            print(f"{both / H100:>10.0f}{spread / H100:>12.1f}")


if __name__ == "__main__":
    main()
