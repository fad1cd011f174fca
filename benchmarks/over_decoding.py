"""Drafts by a model's own further heads: `python -m benchmarks.over_decoding`.

The demo's base (trained once, minutes) gets two further heads by `mergekit-omp grow`, alone and
beside n-gram tables, and is trained further for some minutes. Prints passes of the model per token
of greedy text on held-out prompts, untrained and trained, and how many drafts were right; the text
must be greedy's own. Prompt lookup, which needs no training, stands beside it.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM

import mergekit_omp.growth  # noqa: F401  so that grown models load
from benchmarks.over_encoding import streams
from mergekit_omp.demo import training
from mergekit_omp.demo.descent import descend
from mergekit_omp.demo.models import default_cache_dir, make_models
from mergekit_omp.growth.grow import plan, write
from mergekit_omp.growth.settings import TableSettings

PROMPT, LENGTH = 32, 48


def train(model: Any, stream: torch.Tensor, steps: int) -> None:
    """Loss of the next token and a tenth of each later one's, as the model gives it."""
    optimizer = torch.optim.AdamW(model.parameter_groups(0.05), lr=2e-3, betas=(0.9, 0.98))
    settings = training.Training(steps=steps, batch_size=8, context=128, seed=7)
    batches = training._batches(stream, settings)

    def loss() -> torch.Tensor:
        batch = next(batches)
        return model(input_ids=batch, labels=batch, use_cache=False).loss

    model.train()
    descend(
        list(model.parameters()),
        optimizer,
        loss,
        steps=steps,
        warmup=20,
        decay=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)),
        label="training",
        progress_line=None,
    )


def passes(model: Any, prompts: torch.Tensor, **settings: Any) -> tuple[float, list[torch.Tensor]]:
    """Passes per token, and the texts."""
    count = 0

    def heard(*_: Any) -> None:
        nonlocal count
        count += 1

    model.eval()
    hook = model.get_output_embeddings().register_forward_hook(heard)
    texts = [
        model.generate(
            prompt[None],
            attention_mask=torch.ones_like(prompt[None]),
            do_sample=False,
            max_new_tokens=LENGTH,
            min_new_tokens=LENGTH,
            **settings,
        )
        for prompt in prompts
    ]
    hook.remove()
    return count / (len(prompts) * LENGTH), texts


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.over_decoding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cache", type=Path, help="where trained models are kept")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--prompts", type=int, default=30)
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    base = make_models(arguments.cache or default_cache_dir(), progress=True).base
    stream, held = streams(base)
    starts = torch.linspace(0, len(held) - PROMPT, arguments.prompts).long()
    prompts = torch.stack([held[start : start + PROMPT] for start in starts])
    print("| model | greedy | self-speculation | drafts right | prompt lookup | seconds trained |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, tables in (("heads alone", None), ("heads and tables", TableSettings(rows=65_521))):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            growth = plan(str(base), tables, further_heads=arguments.heads)
            write(growth, str(out), progress=False, told=lambda line: None)
            model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        seconds = 0.0
        for state in ("untrained", "trained"):
            if state == "trained":
                began = time.perf_counter()
                train(model, stream, arguments.steps)
                seconds = time.perf_counter() - began
            greedy, texts = passes(model, prompts)
            drafted, same = passes(model, prompts, self_speculation=True)
            assert all(torch.equal(a, b) for a, b in zip(texts, same, strict=True))
            lookup, _ = passes(model, prompts, prompt_lookup_num_tokens=arguments.heads)
            # Each pass gives one token of its own, and the drafts that were right.
            right = (1 / drafted - 1) / arguments.heads
            print(
                f"| {name}, {state} | {greedy:.2f} | {drafted:.2f} | {right:.0%} | {lookup:.2f} | "
                f"{seconds:.0f} |",
                flush=True,
            )
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}")


if __name__ == "__main__":
    main()
