"""Peak memory of a swap beside the plain merge of the same model, each in a process of its own.

Random models over published tokenizers: a base with Llama 3's vocabulary and `--hidden` dimensions
in bfloat16 (2048 make it larger than 1 GB), a donor with Qwen's. Peak is the resident set that the
operating system reports. Run from the repository: python benchmarks/peak_memory.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import real_tokenizers
import torch
import yaml
from small_models import save_model


def peak_of(config: dict, folder: Path, name: str) -> tuple[float, float]:
    """(peak resident set in GB, seconds) of mergekit-yaml with a config."""
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(config))
    command = [str(Path(sys.executable).with_name("mergekit-yaml")), str(path)]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, str(folder / name), "--quiet", "--lazy-unpickle"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(said.decode())
    return usage.ru_maxrss * 1024 / 1e9, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--donor-hidden", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--method", default="omp")
    parser.add_argument("--tokenizers", type=Path, default=None, help="where to keep tokenizers")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = given.tokenizers or folder
        sizes = {}
        for model, tokenizer, hidden in (
            ("base", "llama3", given.hidden),
            ("donor", "qwen", given.donor_hidden),
        ):
            save_model(
                folder / model,
                real_tokenizers.load(tokenizer, cache),
                hidden=hidden,
                layers=given.layers,
                dtype=torch.bfloat16,
            )
            sizes[model] = sum(f.stat().st_size for f in (folder / model).glob("*.safetensors"))
        base = {"base_model": str(folder / "base"), "models": [{"model": str(folder / "base")}]}
        plain = peak_of(
            {"merge_method": "passthrough", "models": base["models"], "dtype": "bfloat16"},
            folder,
            "plain",
        )
        parameters = {"k": given.k} if given.method == "omp" else {}
        swapped = peak_of(
            {
                "merge_method": given.method,
                **base,
                "tokenizer_source": str(folder / "donor"),
                "parameters": parameters,
                "dtype": "bfloat16",
            },
            folder,
            "swap",
        )
    print(
        json.dumps(
            {
                "settings": {k: str(v) for k, v in vars(given).items() if k != "tokenizers"},
                "base_gb": round(sizes["base"] / 1e9, 3),
                "donor_gb": round(sizes["donor"] / 1e9, 3),
                "base_tensor_gb": round(128_256 * given.hidden * 2 / 1e9, 3),
                "plain": {"peak_gb": round(plain[0], 2), "seconds": round(plain[1], 1)},
                "swap": {"peak_gb": round(swapped[0], 2), "seconds": round(swapped[1], 1)},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
