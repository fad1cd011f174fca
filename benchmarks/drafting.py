"""How many of a draft's guesses a larger model takes: `python -m benchmarks.drafting --out DIR`.

The demo's base (trained once, minutes) becomes a draft for a target of three times its size, which is
trained here and kept in DIR: swapped, with a layer less, and trained afterwards on text that the
target has written, in three ways. Counts passes of the target in assisted generation on held-out
prompts, five guesses at a time. What was made or measured once stays in DIR.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_omp.demo.completed import completed
from mergekit_omp.demo.corpus import standard_library_corpus
from mergekit_omp.demo.descent import descend
from mergekit_omp.demo.models import DEMO, ModelSpec, default_cache_dir, make_models
from mergekit_omp.demo.tokenizers import train_tokenizer
from mergekit_omp.demo.training import Architecture, train_model
from mergekit_omp.healing.heal import heal
from mergekit_omp.healing.settings import Settings
from mergekit_omp.healing.texts import parted

TARGET = ModelSpec(
    name="target",
    style=DEMO.donor.style,
    vocab_size=DEMO.donor.vocab_size,
    architecture=Architecture(hidden_size=256, layers=4, heads=4, intermediate_size=704),
    training=replace(DEMO.donor.training, steps=600, learning_rate=3e-3),
)
GUESSES, PROMPT, LENGTH = 5, 24, 32
WINDOW = 128
"""Tokens of each text that the target writes."""


@dataclass(frozen=True)
class Drafted:
    """How assisted generation went, summed over all prompts."""

    written: int
    passes: int
    """Of the target."""
    guessed: int

    @property
    def taken(self) -> float:
        """Each pass of the target gives a token of its own; the others are guesses that it took."""
        return (self.written - self.passes) / self.guessed


def made_target(out: Path, texts: Sequence[str]) -> Path:
    path = out / "target"
    if not path.exists():
        tokenizer = train_tokenizer(TARGET.style, texts, TARGET.vocab_size)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            model = train_model(
                TARGET.architecture, TARGET.training, tokenizer, texts, progress_line=0
            )
        with completed(path) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    return path


@torch.inference_mode()
def written_by(target: Any, starts: Tensor, batch: int = 100) -> Tensor:
    """Windows that the target writes after the starts, by sampling."""
    torch.manual_seed(0)
    settings = {"do_sample": True, "top_k": 0, "max_length": WINDOW, "min_length": WINDOW}
    return torch.cat(
        [
            target.generate(part, attention_mask=torch.ones_like(part), **settings)
            for part in starts.split(batch)
        ]
    )


def swap(base: Path, donor: Path, out: Path, layers: Sequence[Sequence[int]]) -> Path:
    """`layers`: the ranges to keep; none for the whole model."""
    if out.exists():
        return out
    config: dict[str, Any] = {
        "merge_method": "kriging",
        "tokenizer_source": str(donor),
        "parameters": {"match_donor_rows": True},
        "dtype": "float32",
    }
    if layers:
        config["slices"] = [
            {"sources": [{"model": str(base), "layer_range": list(kept)}]} for kept in layers
        ]
    else:
        config |= {"base_model": str(base), "models": [{"model": str(base)}]}
    run_merge(MergeConfiguration.model_validate(config), str(out), MergeOptions(quiet=True))
    return out


Loss = Callable[[Tensor, Tensor], Tensor]


def train(start: Path, out: Path, windows: Tensor, steps: int, loss: Loss, rate: float) -> Path:
    """Train all of a draft on windows of tokens; `loss` takes windows and logits."""
    if out.exists():
        return out
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).train()
    draw = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98))

    def of_a_batch() -> Tensor:
        batch = windows[torch.randint(len(windows), (8,), generator=draw)]
        return loss(batch, model(batch[:, :-1], use_cache=False).logits)

    descend(
        list(model.parameters()),
        optimizer,
        of_a_batch,
        steps=steps,
        warmup=20,
        decay=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)),
        label=out.name,
        progress_line=0,
    )
    with completed(out) as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(start).save_pretrained(folder)
    return out


def next_token(batch: Tensor, logits: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def like(teacher: Any) -> Loss:
    """The divergence from the teacher's probabilities."""

    def loss(batch: Tensor, logits: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = log_softmax(teacher(batch[:, :-1], use_cache=False).logits, -1)
        found = log_softmax(logits, -1)
        return kl_div(
            found.flatten(0, 1), wanted.flatten(0, 1), reduction="batchmean", log_target=True
        )

    return loss


def drafted(target: Any, draft: Any, prompts: Tensor, sample: bool) -> Drafted:
    """Assisted generation on each prompt; greedy text must be the target's own."""
    counts = {"target": 0, "draft": 0}

    def count(name: str) -> Callable[..., None]:
        def heard(*_: Any) -> None:
            counts[name] += 1

        return heard

    draft.generation_config.update(
        num_assistant_tokens=GUESSES,
        num_assistant_tokens_schedule="constant",
        assistant_confidence_threshold=0.0,
    )
    settings = {"max_new_tokens": LENGTH, "min_new_tokens": LENGTH, "do_sample": sample}
    torch.manual_seed(0)
    written = 0
    for prompt in prompts:
        given = {"inputs": prompt[None], "attention_mask": torch.ones_like(prompt[None])}
        alone = None if sample else target.generate(**given, **settings)
        hooks = [
            target.register_forward_hook(count("target")),
            draft.register_forward_hook(count("draft")),
        ]
        tokens = target.generate(**given, **settings, top_k=0, assistant_model=draft)
        for hook in hooks:
            hook.remove()
        assert alone is None or torch.equal(alone, tokens), "a draft changes no word"
        written += tokens.shape[1] - len(prompt)
    return Drafted(written, counts["target"], counts["draft"])


@torch.inference_mode()
def agreement(target: Any, draft: Any, windows: Tensor) -> float:
    """How often both find the same token most likely."""
    same = [
        (target(part).logits.argmax(-1) == draft(part).logits.argmax(-1)).float()
        for part in windows.split(16)
    ]
    return float(torch.cat(same).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drafting",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="where models are kept")
    parser.add_argument("--cache", type=Path, help="where the demo's models are kept")
    parser.add_argument("--steps", type=int, default=200, help="of each training")
    parser.add_argument("--texts", type=int, default=600, help="that the target writes")
    parser.add_argument("--prompts", type=int, default=12)
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    out, steps = arguments.out, arguments.steps
    out.mkdir(parents=True, exist_ok=True)
    base = make_models(arguments.cache or default_cache_dir(), progress=True).base
    corpus = standard_library_corpus(DEMO.corpus)
    at = made_target(out, [document.text for document in corpus.train])
    target = AutoModelForCausalLM.from_pretrained(at, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(at)

    def starts(documents: Sequence[Any], length: int, most: int) -> Tensor:
        encoded = tokenizer([document.text for document in documents]).input_ids
        found = [ids[:length] for ids in encoded if len(ids) >= length]
        return torch.tensor([found[i * len(found) // most] for i in range(min(most, len(found)))])

    text = out / f"written-{arguments.texts}.pt"
    if not text.exists():
        torch.save(written_by(target, starts(corpus.train, 8, arguments.texts)), text)
    written = torch.load(text)
    windows, unseen = written[:-100], written[-100:]
    texts = parted(tokenizer.batch_decode(windows, skip_special_tokens=True))

    def healed(start: Path) -> Path:
        new_rows = out / f"{start.name}-healed-{steps}"
        if not new_rows.exists():
            healing = Settings(steps=steps, context=WINDOW, patience=steps)
            heal(str(start), str(new_rows), texts, healing, progress=True)
        return new_rows

    def trained(start: Path, how: str, loss: Loss) -> Path:
        return train(start, out / f"{start.name}-{how}-{steps}", windows, steps, loss, 1e-3)

    whole = swap(base, at, out / "kriging", ())
    short = swap(base, at, out / "short", ((0, 1), (2, 3)))
    makers: list[tuple[str, Callable[[], Path]]] = [
        ("`kriging`", lambda: whole),
        ("`kriging`, new rows trained (`heal`)", lambda: healed(whole)),
        ("`kriging`, trained on the text", lambda: trained(whole, "trained", next_token)),
        (
            "`kriging`, trained on the target's probabilities",
            lambda: trained(whole, "taught", like(target)),
        ),
        ("two of three layers", lambda: short),
        ("two of three layers, trained on the text", lambda: trained(short, "trained", next_token)),
        (
            "two of three layers, trained on the target's probabilities",
            lambda: trained(short, "taught", like(target)),
        ),
    ]
    prompts = starts(corpus.held_out, PROMPT, arguments.prompts)
    print(f"target {size_of(target)}, draft {size_of(load(whole))} parameters")
    print("| draft | agreement | tokens a pass | guesses taken | tokens a pass | guesses taken |")
    print("|---|---:|---:|---:|---:|---:|")
    for label, made in makers:
        path = made()
        kept = path.with_name(f"{path.name}-{len(prompts)}.json")
        if not kept.exists():
            draft = load(path)
            result = {
                "agreement": agreement(target, draft, unseen),
                "drafted": [asdict(drafted(target, draft, prompts, s)) for s in (False, True)],
            }
            kept.write_text(json.dumps(result), encoding="utf-8")
        result = json.loads(kept.read_text(encoding="utf-8"))
        cells = [f"{result['agreement']:.1%}"]
        for found in (Drafted(**counts) for counts in result["drafted"]):
            cells += [f"{found.written / found.passes:.2f}", f"{found.taken:.0%}"]
        print(f"| {label} | {' | '.join(cells)} |", flush=True)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}")


def load(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def size_of(model: Any) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} million"


if __name__ == "__main__":
    main()
