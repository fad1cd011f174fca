"""Whether a swapped chat model stops: `python -m benchmarks.stopping`.

The demo's base (trained once, minutes) gets ChatML's control tokens and is taught, in a minute, to
repeat words and to stop. Then it gets the tokenizer of the demo's donor with Llama 3's markup: as it
comes, with the rows of its own markup under `tokens:`, and with its own markup kept. Prints how many of
20 answers end before the limit.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_omp.demo.models import default_cache_dir, make_models

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant"
    "<|end_header_id|>\n\n{% endif %}"
)
WORDS = [
    "value",
    "object",
    "name",
    "list",
    "text",
    "file",
    "number",
    "string",
    "module",
    "class",
    "method",
    "key",
    "index",
    "line",
    "error",
    "type",
    "result",
]
LIMIT, ANSWERS = 40, 20


def chat(draw: random.Random) -> list[dict[str, str]]:
    words = draw.sample(WORDS, draw.randint(1, 3))
    return [
        {"role": "user", "content": f"Repeat: {' '.join(words)}"},
        {"role": "assistant", "content": f"The words are {' and '.join(words)}."},
    ]


def with_markup(path: Path, markup: Sequence[str], template: str) -> tuple[Any, Any]:
    model, tokenizer = (
        kind.from_pretrained(path) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(markup)})
    tokenizer.chat_template = template
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return model, tokenizer


def taught(model: Any, tokenizer: Any, steps: int) -> None:
    draw = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(steps):
        # Twice each, so that what comes after an answer is learnt as well.
        texts = [tokenizer.apply_chat_template(chat(draw), tokenize=False) * 2 for _ in range(8)]
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    model.generation_config.eos_token_id = stops
    model.eval()


def answers(path: Path) -> tuple[int, str]:
    """How many answers end before the limit, and the first of them."""
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    draw = random.Random(5)
    ended, first = 0, ""
    for _ in range(ANSWERS):
        inputs = tokenizer.apply_chat_template(
            chat(draw)[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        tokens = model.generate(**inputs, max_new_tokens=LIMIT, do_sample=False)[0]
        answer = tokens[inputs["input_ids"].shape[1] :]
        ended += len(answer) < LIMIT
        first = first or tokenizer.decode(answer)
    return ended, first


def swap(base: Path, donor: Path, out: Path, tokens: dict[str, Any], template: str | None) -> Path:
    config: dict[str, Any] = {
        "merge_method": "kriging",
        "base_model": str(base),
        "models": [{"model": str(base)}],
        "tokenizer": {"source": str(donor), "tokens": tokens},
        "dtype": "float32",
    }
    if template is not None:
        config["chat_template"] = template
    run_merge(MergeConfiguration.model_validate(config), str(out), MergeOptions(quiet=True))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stopping",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cache", type=Path, help="where the demo's models are kept")
    parser.add_argument("--steps", type=int, default=160, help="of teaching")
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    models = make_models(arguments.cache or default_cache_dir(), progress=True)
    with tempfile.TemporaryDirectory() as folder:
        base, donor = Path(folder) / "base", Path(folder) / "donor"
        model, tokenizer = with_markup(models.base, ["<|im_start|>", "<|im_end|>"], CHATML)
        taught(model, tokenizer, arguments.steps)
        other = with_markup(
            models.donor, ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], HEADERS
        )
        for path, parts in ((base, (model, tokenizer)), (donor, other)):
            for part in parts:
                part.save_pretrained(path)

        def row_of(token: str) -> dict[str, Any]:
            source = {"kind": "model_token", "model": str(base), "token": token}
            return {"source": source, "force": True}

        given = {
            "<|start_header_id|>": row_of("<|im_start|>"),
            "<|eot_id|>": row_of("<|im_end|>"),
        }
        kept = {token: {"source": str(base)} for token in ("<|im_start|>", "<|im_end|>")}
        print("| | answers that end | the first |")
        print("|---|---:|---|")
        for label, path in {
            "own tokenizer": base,
            "swapped": swap(base, donor, Path(folder) / "swapped", {}, None),
            "with the rows of its markup": swap(base, donor, Path(folder) / "given", given, None),
            "with its own markup": swap(base, donor, Path(folder) / "kept", kept, CHATML),
        }.items():
            ended, first = answers(path)
            print(f"| {label} | {ended} of {ANSWERS} | `{first!r}` |", flush=True)


if __name__ == "__main__":
    main()
