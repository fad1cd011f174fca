"""Which approximation before a merge of several models: `python benchmarks/merged.py`.

Two fine-tunes of the demo's base, one on prose and one on code, are merged by several merge methods
and get the demo's donor's tokenizer in the same pass. The table: bits per byte of held-out text, of
the merge with the base's own tokenizer and with the donor's by each approximation.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from methods import evaluated
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_omp.demo.corpus import TextKind, standard_library_corpus
from mergekit_omp.demo.models import DEMO, default_cache_dir, make_models
from mergekit_omp.demo.training import train_further

APPROXIMATIONS = ("kriging", "omp", "mean", "zero")
MERGES: dict[str, dict[str, Any]] = {
    "linear": {"weight": 0.5},
    "task_arithmetic": {"weight": 0.7},
    "ties": {"weight": 0.7, "density": 0.6},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cache", type=Path, default=None, help="where trained models are kept")
    parser.add_argument("--steps", type=int, default=150, help="of each fine-tuning")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    models = make_models(arguments.cache or default_cache_dir())
    texts = [document.text for document in models.held_out]
    train = standard_library_corpus(DEMO.corpus).train
    with tempfile.TemporaryDirectory() as scratch:
        tuned = []
        for kind in (TextKind.PROSE, TextKind.CODE):
            tuned.append(Path(scratch) / kind.value)
            tuning = replace(DEMO.base.training, steps=arguments.steps, learning_rate=1e-3)
            model = AutoModelForCausalLM.from_pretrained(models.base)
            tokenizer = AutoTokenizer.from_pretrained(models.base)
            train_further(model, tuning, tokenizer, [d.text for d in train if d.kind == kind])
            model.save_pretrained(tuned[-1])
            tokenizer.save_pretrained(tuned[-1])
        print(f"| merge | own tokenizer | {' | '.join(APPROXIMATIONS)} |")
        print("|---|" + "---:|" * (1 + len(APPROXIMATIONS)))
        for name, parameters in MERGES.items():
            scores = []
            for approximation in (None, *APPROXIMATIONS):
                out = Path(scratch) / f"{name}-{approximation}"
                merge(name, approximation, parameters, models, tuned, out)
                scores.append(evaluated(out, texts))
            print(f"| {name} | {' | '.join(f'{score:.3f}' for score in scores)} |", flush=True)


def merge(
    name: str,
    approximation: str | None,
    parameters: dict[str, Any],
    models: Any,
    tuned: list[Path],
    out: Path,
) -> None:
    config = {
        "merge_method": name if approximation is None else f"{approximation}+{name}",
        "models": [{"model": str(path), "parameters": parameters} for path in tuned],
        "tokenizer_source": str(models.base if approximation is None else models.donor),
        "dtype": "float32",
    }
    if name != "linear":
        config["base_model"] = str(models.base)
    torch.manual_seed(0)
    run_merge(MergeConfiguration.model_validate(config), str(out), MergeOptions(quiet=True))


if __name__ == "__main__":
    main()
