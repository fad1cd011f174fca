"""All that only a GPU can show, in one run of at most eight minutes on one GPU.

    python benchmarks/gpu.py

1. the suite's tests that need a GPU;
2. the exact pursuit beside mergekit's `batch_omp` on the same GPU, with the share that ours has of
   what the GPU can do: of its products in bfloat16, and of its memory's bandwidth, as measured here;
3. `kriging` of the rows of a large swap;
4. a whole merge with `--cuda`.

Each part prints its table as soon as it has it, in Markdown, and a part that fails does not stop
the others; the exit status says whether all went well. `--device cpu --tiny` shows that the program
itself works, in seconds: its figures mean nothing. Needs the test extra.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from dictionaries import embeddings, machine  # noqa: E402

from mergekit_omp.approximation import CodingInputs, MissingRows, Part, Texts  # noqa: E402
from mergekit_omp.approximation.kriging import Kriging  # noqa: E402
from mergekit_omp.pursuit.choice import choose  # noqa: E402
from mergekit_omp.pursuit.problem import prepare  # noqa: E402
from mergekit_omp.pursuit.solve import solve_planned  # noqa: E402
from mergekit_omp.pursuit.sparse_code import SparseCode  # noqa: E402

PURSUITS = [(110_000, 2048), (65_000, 5120)]
KRIGING = 110_000, 18_000, 4096
TINY_PURSUITS, TINY_KRIGING = [(900, 64)], (300, 40, 32)
PEER_BATCH = 512
"""What `mergekit-tokensurgeon` gives `batch_omp` at a time."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that take no time")
    parser.add_argument("--targets", type=int, default=2048, help="of a pursuit")
    parser.add_argument("--peer-targets", type=int, default=512)
    parser.add_argument("--k", type=int, default=64)
    options = parser.parse_args()
    if options.tiny:
        options.targets, options.peer_targets, options.k = 40, 20, 8
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here: --device cpu --tiny shows that the program works")
        return 2
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}; {machine()}; {' '.join(sys.argv)}", flush=True)
    parts: list[Callable[[argparse.Namespace, torch.device], None]] = [
        *(gpu_tests, pursuits, kriging, merges)
    ]
    failed = 0
    for part in parts:
        began = time.perf_counter()
        try:
            part(options, device)
        except (RuntimeError, ValueError, AssertionError, subprocess.SubprocessError) as error:
            failed += 1
            print(f"\n{part.__name__} FAILED: {type(error).__name__}: {error}")
        print(f"\n({part.__name__}: {time.perf_counter() - began:.0f} s)", flush=True)
    return int(failed > 0)


def gpu_tests(options: argparse.Namespace, device: torch.device) -> None:
    """The tests that are skipped without a GPU."""
    if device.type != "cuda":
        print("\nTests that need a GPU: not run on a CPU.")
        return
    command = [sys.executable, "-m", "pytest", "-q", "-k", "gpu or cuda", "tests"]
    done = subprocess.run(
        command, cwd=HERE.parent, capture_output=True, text=True, check=False, timeout=240
    )
    print(f"\nTests that need a GPU: {done.stdout.strip().splitlines()[-1]}")
    if done.returncode:
        raise RuntimeError(done.stdout[-3000:])


def pursuits(options: argparse.Namespace, device: torch.device) -> None:
    """Exact pursuits beside `batch_omp`."""
    from mergekit.tokensurgeon import batch_omp

    size = 256 if options.tiny else 8192
    products, bandwidth = limits(device, size)
    print(
        f"\nThis device: {products / 1e12:.2f} T multiply-adds/s in bfloat16,"
        f" {bandwidth / 1e9:.0f} GB/s\n\n"
        "| atoms | dimensions | solver | ms/target | times | same support | of products |"
        " of bandwidth | peak GB |\n|---|---|---|---|---|---|---|---|---|"
    )
    for atoms, dim in TINY_PURSUITS if options.tiny else PURSUITS:
        dictionary = embeddings(atoms, dim, seed=1).to(device)
        targets = embeddings(options.targets, dim, seed=2).to(device)
        problem = prepare(targets, dictionary, options.k, None)
        some = targets[: options.peer_targets]
        peer, (expected, _) = timed(
            device, partial(by_batches, batch_omp, some, dictionary, options.k)
        )
        peer_each = peer / len(some)
        rows = [f"| {atoms} | {dim} | `batch_omp` | {peer_each * 1e3:.2f} | 1 | | | | |"]
        for search in ("auto", "reference"):
            plan = choose(problem, search, None)
            warm = problem.subset(torch.arange(min(plan.batch, 64), device=device))
            solve_planned(warm, plan)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            spent, code = timed(device, partial(solve_planned, problem, plan))
            each = spent / len(targets)
            same = agreeing(code, expected)
            # A sweep multiplies all atoms with a batch, and reads them, coarse, once for it.
            swept = atoms * dim * options.k / each / products
            batch = min(plan.batch, len(targets))
            moved = options.k * (2.0 * atoms * dim / batch + 10.0 * atoms) / each / bandwidth
            peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0
            rows.append(
                f"| {atoms} | {dim} | `{search}` ({plan.search}, {batch} at a time) |"
                f" {each * 1e3:.2f} | {peer_each / each:.1f} | {same}/{len(some)} |"
                f" {swept:.0%} | {moved:.0%} | {peak:.1f} |"
            )
        print("\n".join(rows), flush=True)


def by_batches(
    solve: Callable[..., tuple[Tensor, Tensor]], targets: Tensor, atoms: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    found = [solve(part, atoms, k) for part in targets.split(PEER_BATCH)]
    return torch.cat([one for one, _ in found]), torch.cat([one for _, one in found])


def agreeing(code: SparseCode, expected: Tensor) -> int:
    """How many supports are the peer's, as sets."""
    ours = code.indices[: len(expected)].sort(dim=1)[0]
    return int((ours == expected.to(ours.device).sort(dim=1)[0]).all(dim=1).sum())


def limits(device: torch.device, size: int) -> tuple[float, float]:
    """Multiply-adds a second of a large bfloat16 product, and bytes a second of a large copy."""
    one = torch.randn(size, size, device=device).to(torch.bfloat16)
    timed(device, lambda: one @ one)
    product, _ = timed(device, lambda: [one @ one for _ in range(5)])
    block = torch.empty(size * size, device=device)
    other = torch.empty_like(block)
    copy, _ = timed(device, lambda: [other.copy_(block) for _ in range(5)])
    return 5 * size**3 / product, 5 * 2 * 4 * size * size / copy


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    wait(device)
    began = time.perf_counter()
    result = work()
    wait(device)
    return time.perf_counter() - began, result


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def kriging(options: argparse.Namespace, device: torch.device) -> None:
    """`kriging` of as many rows as a large swap has."""
    anchors, missing, dim = TINY_KRIGING if options.tiny else KRIGING
    draw = random.Random(1)
    base_texts: list[bytes | None] = [f"token{row}".encode() for row in range(anchors)]
    missing_texts: list[bytes | None] = [f"missing{row}".encode() for row in range(missing)]

    def segment(texts: object) -> list[list[int]]:
        return [[draw.randrange(anchors) for _ in range(3)] for _ in texts]  # type: ignore[attr-defined]

    rows = embeddings(anchors + missing, dim, seed=3)
    base = embeddings(anchors, dim, seed=4).to(torch.bfloat16).to(device)
    problem = MissingRows(
        part=Part.INPUT,
        base=base,
        inputs=CodingInputs(
            missing=missing,
            anchor_rows=torch.arange(anchors),
            targets=rows[anchors:].to(device),
            anchors=rows[:anchors].to(device),
            texts=Texts(
                missing=missing_texts,
                base=base_texts,
                donor=[*base_texts, *missing_texts],
                segment_in_base=segment,
                segment_in_donor=segment,
            ),
        ),
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    spent, result = timed(device, lambda: Kriging().approximate(problem))
    assert bool(result.isfinite().all())
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0
    print(
        f"\n`kriging`, {anchors} anchors, {missing} missing, {dim} dimensions: {spent:.1f} s,"
        f" {peak:.1f} GB on the device"
    )


def merges(options: argparse.Namespace, device: torch.device) -> None:
    """A whole swap, as a process of its own, with `--cuda`."""
    import real_tokenizers
    from small_models import save_model

    names = ("byte_level", "unigram") if options.tiny else ("qwen", "llama3")
    hidden = 32 if options.tiny else 1024
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for seed, name in enumerate(names):
            tokenizer = real_tokenizers.load(name, root)
            save_model(
                root / name, tokenizer, hidden=hidden, layers=1, seed=seed, dtype=torch.bfloat16
            )
        base = str(root / names[0])
        config = {
            "merge_method": "omp",
            "base_model": base,
            "models": [{"model": base}],
            "tokenizer_source": str(root / names[1]),
            "dtype": "bfloat16",
        }
        (root / "swap.yml").write_text(yaml.safe_dump(config))
        print("\n| whole merge | seconds |\n|---|---|")
        for option in ["--cuda"] if device.type == "cuda" else ["--no-cuda"]:
            command = str(Path(sys.executable).with_name("mergekit-yaml"))
            began = time.perf_counter()
            subprocess.run(
                [command, str(root / "swap.yml"), str(root / "out"), option],
                check=True,
                capture_output=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
                timeout=240,
            )
            spent = time.perf_counter() - began
            print(
                f"| `omp` of {names[1]} into {names[0]}, {hidden} dimensions, `{option}` | {spent:.0f} |"
            )


if __name__ == "__main__":
    sys.exit(main())
