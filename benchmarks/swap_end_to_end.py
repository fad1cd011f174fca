"""A whole swap of real vocabularies, beside `mergekit-tokensurgeon`: wall time and peak memory.

Makes two random models with the vocabularies of Llama 3 and Qwen, gives the second the first's
tokenizer with `mergekit-yaml` and `merge_method: omp`, and does the same with
`mergekit-tokensurgeon -a omp`; both are whole processes. The latter takes more than a day, so it
is stopped after `--peer-batches` of its batches of 512 tokens, and the rest is extrapolated from
the time of those batches: they are all alike. `--tokens` does the same to ours. Processor seconds are
of all threads: where others use the machine too, these can be compared.

    python benchmarks/swap_end_to_end.py --hidden 896 --k 64 --tokens 2048

Needs the test extra and the packages of tests/no-deps.txt.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

PROGRESS = rb":\s+\d+%[^|]*\|[^|]*\|\s*(\d+)/(\d+)"
PEER = re.compile(rb"Approximating tokens" + PROGRESS)
OURS = re.compile(rb"pursuit" + PROGRESS)


@dataclass(frozen=True)
class Measured:
    """What one process took."""

    seconds: float
    processor: float
    peak_gb: float
    note: str = ""


def command(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def whole(arguments: list[str]) -> Measured:
    """Run a process to its end."""
    began = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed with status {process.returncode}")
    processor = usage.ru_utime + usage.ru_stime
    return Measured(time.perf_counter() - began, processor, usage.ru_maxrss / 1e6)


def until(
    arguments: list[str],
    pattern: re.Pattern[bytes],
    steps: int,
    tensors: int,
    unit: str,
    from_start: bool = False,
) -> Measured:
    """Run a process for some steps of its first tensor's progress, and extrapolate to all.

    `from_start`: steps count from the moment that 0 is shown, not from the first that is done; what
    else is under way when the last is done then counts as nothing.
    """
    began = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    watched = psutil.Process(process.pid)

    def now() -> np.ndarray:
        """Seconds since the start, and of the processor."""
        return np.array([time.perf_counter() - began, sum(watched.cpu_times()[:2])])

    seen: dict[int, np.ndarray] = {}
    total, text = 0, b""
    while chunk := os.read(process.stderr.fileno(), 4096):
        text = (text + chunk)[-4096:]
        for found in pattern.finditer(text):
            total = int(found[2])
            if int(found[1]) or from_start:
                seen.setdefault(int(found[1]), now())
        if seen and max(seen) >= steps:
            process.kill()
            break
    process.stderr.close()
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    if not seen or max(seen) < steps:
        raise SystemExit(f"{arguments[0]} ended before its {steps} {unit} were done")
    first, last = min(seen), max(seen)
    each = (seen[last] - seen[first]) / (last - first)
    seconds, processor = seen[first] + each * (total * tensors - first)
    note = f"extrapolated from {last - first} of {total * tensors} {unit}"
    return Measured(seconds, processor, usage.ru_maxrss / 1e6, note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="qwen", help="vocabulary of the base")
    parser.add_argument("--donor", default="llama3", help="vocabulary of the donor")
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--memory", help="the solver's budget, such as 2GB")
    parser.add_argument("--search", default="auto")
    parser.add_argument("--tokens", type=int, help="stop ours after so many of the first tensor's")
    parser.add_argument("--peer-batches", type=int, default=2)
    parser.add_argument(
        "--only",
        choices=["ours", "peer"],
        help="measure one side, to be set against the other later",
    )
    settings = parser.parse_args()

    import real_tokenizers
    import torch
    from small_models import save_model

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for seed, name in enumerate((settings.base, settings.donor)):
            tokenizer = real_tokenizers.load(name, root)
            save_model(
                root / f"model-{name}",
                tokenizer,
                hidden=settings.hidden,
                layers=1,
                seed=seed,
                dtype=torch.bfloat16,
                std=0.02,
            )
        base, donor = root / f"model-{settings.base}", root / f"model-{settings.donor}"
        config = {
            "merge_method": "omp",
            "base_model": str(base),
            "models": [{"model": str(base)}],
            "tokenizer_source": str(donor),
            "parameters": {
                "k": settings.k,
                "search": settings.search,
                **({"memory": settings.memory} if settings.memory else {}),
            },
            "dtype": "bfloat16",
        }
        (root / "swap.yml").write_text(yaml.safe_dump(config))
        rows: list[tuple[str, Measured]] = []
        if settings.only != "peer":
            swap = [command("mergekit-yaml"), str(root / "swap.yml"), str(root / "ours")]
            if settings.tokens:
                tokens = settings.tokens
                ours = until(swap, OURS, tokens, tensors=2, unit="tokens", from_start=True)
            else:
                ours = whole(swap)
            rows.append(("`omp`", ours))
            config["merge_method"] = "zero"
            del config["parameters"]
            (root / "zero.yml").write_text(yaml.safe_dump(config))
            rest = whole([command("mergekit-yaml"), str(root / "zero.yml"), str(root / "zero")])
            rows.append(("`zero`: all but the solver", rest))
        if settings.only != "ours":
            peer = [
                *(command("mergekit-tokensurgeon"), str(base), str(donor)),
                *(str(root / "peer"), "-a", "omp", "-k", str(settings.k)),
            ]
            batches = settings.peer_batches
            rows.append(
                ("`mergekit-tokensurgeon`", until(peer, PEER, batches, tensors=2, unit="batches"))
            )

    print(
        f"{settings.base} <- {settings.donor}, hidden size {settings.hidden}, k = {settings.k}; "
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}\n"
    )
    print("| whole process | seconds | times as fast | processor s | times | peak memory, GB |")
    print("|---|---|---|---|---|---|")
    last = rows[-1][1]
    for label, own in rows:
        wall, processor = (
            "" if settings.only else f"{there / here:.1f}"
            for there, here in ((last.seconds, own.seconds), (last.processor, own.processor))
        )
        note = f" ({own.note})" if own.note else ""
        print(
            f"| {label}{note} | {own.seconds:.0f} | {wall} | {own.processor:.0f} | {processor} |"
            f" {own.peak_gb:.1f} |"
        )


if __name__ == "__main__":
    main()
