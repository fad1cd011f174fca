"""Every approximation on the demo's models: `python benchmarks/methods.py` prints a table.

The demo's base gets the tokenizer of the demo's donor by each method in turn, alone and with
defaults unless the row says otherwise. Columns: bits per byte of held-out text (lower is better),
how many rows of the base a missing token is made of on average, and the mean norm of approximated
rows over that of copied ones, for input and head.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_omp.demo.models import default_cache_dir, make_models
from mergekit_omp.evaluation import bits_per_byte

ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("kriging", {}),
    ("kriging", {"neighbors": 0}),
    ("kriging", {"head_gain": 1.0}),
    ("omp", {}),
    ("omp", {"paper": True}),
    ("omp", {"k": 8}),
    ("omp", {"k": 64, "center": True}),
    ("omp", {"k": 64, "normalize_atoms": True}),
    ("omp", {"k": 64, "weights_from": "embed"}),
    ("omp", {"k": 64, "rescale_norms": True}),
    ("linear", {}),
    ("linear", {"ridge": 0.01}),
    ("linear", {"ridge": 1.0}),
    ("knn", {}),
    ("knn", {"k": 64}),
    ("knn", {"metric": "euclidean", "weights": "inverse_distance"}),
    ("knn", {"k": 64, "weights": "least_squares"}),
    ("wechsel", {}),
    ("wechsel", {"rescale_norms": True}),
    ("focus", {}),
    ("focus", {"rescale_norms": True}),
    ("clp", {}),
    ("subword", {}),
    ("subword", {"input": "last"}),
    ("subword", {"input": "last", "head": "first"}),
    ("subword", {"input": "weighted"}),
    ("normal", {}),
    ("mean", {}),
    ("zero", {}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cache", type=Path, default=None, help="where trained models are kept")
    parser.add_argument("--methods", nargs="*", help="only these methods")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    models = make_models(arguments.cache or default_cache_dir())
    texts = [document.text for document in models.held_out]
    print(
        "| method | parameters | bits per byte | support, input / head | norm ratio, input / head |"
    )
    print("|---|---|---:|---:|---:|")
    own = evaluated(models.base, texts)
    print(f"| base, own tokenizer | | {own:.3f} | | |")
    for method, parameters in ROWS:
        if arguments.methods and method not in arguments.methods:
            continue
        with tempfile.TemporaryDirectory() as folder:
            merge(method, parameters, models.base, models.donor, folder)
            score = evaluated(Path(folder), texts)
            record = json.loads((Path(folder) / "tokenizer_transplant.json").read_text())
        written = ", ".join(f"`{name}: {value}`" for name, value in parameters.items())
        supports, ratios = statistics(record)
        print(
            f"| `{method}` | {written} | {score:.3f} | {supports} | {ratios} |",
            flush=True,
        )


def merge(method: str, parameters: dict[str, Any], base: Path, donor: Path, folder: str) -> float:
    """Runs the merge into `folder`; seconds that it took."""
    config = {
        # In full, since `linear` alone is mergekit's own method.
        "merge_method": f"{method}+passthrough",
        "base_model": str(base),
        "models": [{"model": str(base)}],
        "tokenizer_source": str(donor),
        "parameters": parameters,
        "dtype": "float32",
    }
    began = time.perf_counter()
    run_merge(MergeConfiguration.model_validate(config), folder, MergeOptions(quiet=True))
    return time.perf_counter() - began


def evaluated(path: Path, texts: Sequence[str]) -> float:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return bits_per_byte(
        model, AutoTokenizer.from_pretrained(path), texts, context=128, batch_size=16
    ).bits_per_byte


def statistics(record: dict[str, Any]) -> tuple[str, str]:
    """Mean support sizes and norm ratios of the record, input / head."""
    tensors = {tensor["part"]: tensor for tensor in record["models"][0]["tensors"]}
    supports, ratios = [], []
    for part in ("input", "head"):
        norms = tensors[part]["row_norms"]
        ratios.append(f"{norms['approximated']['mean'] / norms['copied']['mean']:.2f}")
        support = tensors[part].get("support_size")
        supports.append(f"{support['mean']:.0f}" if support else "–")
    return " / ".join(supports), " / ".join(ratios)


if __name__ == "__main__":
    main()
