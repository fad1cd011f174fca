"""Continued training with and without n-gram tables: `python -m benchmarks.over_encoding --out DIR`.

The demo's base and a model of OLMo 2's shape on the same text (trained once, minutes) are trained
further three times each: as they are, grown by `mergekit-omp grow`, and grown by a control that has
as many parameters which look at the token alone. Prints the loss of held-out text at equal steps
and at equal seconds, over several seeds, and writes tables, numbers and a plot to DIR.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, Olmo2Config, Olmo2ForCausalLM

from mergekit_omp.demo import training
from mergekit_omp.demo.completed import completed
from mergekit_omp.demo.corpus import standard_library_corpus
from mergekit_omp.demo.models import DEMO, default_cache_dir, make_models
from mergekit_omp.growth.grow import plan, write
from mergekit_omp.growth.settings import TableSettings

ARMS: dict[str, TableSettings | None] = {
    "base": None,
    "grown": TableSettings(rows=65_521),
    # Two tables of the same size whose rows are those of the tokens.
    "control": TableSettings(orders=(1,), splits=2, rows=65_521),
}
SHAPES = {"demo": "the demo's base", "olmo2": "OLMo 2's shape"}


@dataclass(frozen=True)
class Further:
    """How models are trained further."""

    steps: int = 200
    batch_size: int = 16
    context: int = 128
    learning_rate: float = 2e-3
    warmup: int = 20
    every: int = 50
    seed: int = 0


@dataclass(frozen=True)
class Run:
    """One curve: held-out nats per token, and the seconds of training until then, of one core."""

    shape: str
    arm: str
    seed: int
    steps: list[int]
    losses: list[float]
    seconds: list[float]


def olmo2(cache: Path, base: Path) -> Path:
    """A model of OLMo 2's shape with the base's tokenizer, trained as the demo trains its base."""
    entry = cache / f"olmo2-beside-{base.name}"
    if entry.exists():
        return entry
    spec = DEMO.base
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = [document.text for document in standard_library_corpus(DEMO.corpus).train]
    shape = training._config(spec.architecture, tokenizer).to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    more = ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    others = ("initializer_range", "bos_token_id", "eos_token_id")
    torch.manual_seed(spec.training.seed)
    model: Any = Olmo2ForCausalLM(
        Olmo2Config(**{name: shape[name] for name in (*names, *more, *others)}, pad_token_id=None)
    )
    training.train_further(model, spec.training, tokenizer, texts, progress_line=0, label="olmo2")
    with completed(entry) as folder:
        model.eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return entry


def grown(source: Path, path: Path, arm: str) -> Path:
    """The model of an arm, of a seed by the last part of its name; the source itself is one."""
    settings = ARMS[arm]
    if settings is None:
        return source
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        growth = plan(str(source), replace(settings, seed=int(path.name.rpartition("-")[2])))
        write(growth, str(path), progress=False, told=lambda line: None)
    return path


def streams(base: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids of the text to train on, and of the text that is held out."""
    corpus = standard_library_corpus(DEMO.corpus)
    tokenizer = AutoTokenizer.from_pretrained(base)
    parts = (corpus.train, corpus.held_out)
    train, held = (training.token_stream(tokenizer, [d.text for d in part]) for part in parts)
    return train, held


@torch.inference_mode()
def held_out_loss(model: Any, stream: torch.Tensor, further: Further) -> float:
    """Nats per token, in windows without overlap."""
    window = further.context + 1
    windows = stream[: len(stream) // window * window].view(-1, window)
    total = 0.0
    for batch in windows.split(32):
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        total += float(
            functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")
        )
    return total / (len(windows) * further.context)


def train(path: Path, shape: str, arm: str, further: Further, base: Path) -> Run:
    """Runs in a process of its own, on one thread."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    stream, held = streams(base)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if hasattr(model, "parameter_groups"):
        groups = model.parameter_groups(0.05)
    else:
        groups = [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
    optimizer = torch.optim.AdamW(groups, lr=further.learning_rate, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / further.warmup, 0.5 * (1 + math.cos(math.pi * step / further.steps))
        ),
    )
    settings = training.Training(
        steps=further.steps,
        batch_size=further.batch_size,
        context=further.context,
        seed=1000 + further.seed,
    )
    batches = training._batches(stream, settings)
    steps, losses, seconds, spent = [0], [held_out_loss(model.eval(), held, further)], [0.0], 0.0
    for step in range(1, further.steps + 1):
        model.train()
        # Of the process, which has one thread: what else runs on the machine does not count.
        began = time.process_time()
        batch = next(batches)
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        spent += time.process_time() - began
        if step % further.every == 0:
            steps.append(step)
            losses.append(held_out_loss(model.eval(), held, further))
            seconds.append(spent)
    return Run(shape, arm, further.seed, steps, losses, seconds)


def report(runs: Sequence[Run], shown: Sequence[int]) -> str:
    """Two tables for each shape: at equal steps and at equal seconds."""
    lines: list[str] = []
    for shape in dict.fromkeys(run.shape for run in runs):
        of_shape = [run for run in runs if run.shape == shape]
        base = [run for run in of_shape if run.arm == "base"]
        end = float(np.mean([run.seconds[-1] for run in base]))
        titles = [f"step {step}" for step in shown]
        lines += [
            f"**{SHAPES[shape]}**",
            "",
            "| arm | " + " | ".join(titles) + f" | at {end:.0f} s | seconds in all |",
            "|---|" + "---:|" * (len(titles) + 2),
        ]
        for arm in ARMS:
            chosen = [run for run in of_shape if run.arm == arm]
            if not chosen:
                continue
            cells = [_spread([r.losses[r.steps.index(step)] for r in chosen]) for step in shown]
            # A slower arm is read where the base has ended; a quicker one at its own end.
            cells.append(_spread([float(np.interp(end, r.seconds, r.losses)) for r in chosen]))
            cells.append(f"{np.mean([run.seconds[-1] for run in chosen]):.0f}")
            lines.append(f"| {arm} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    """The mean over seeds, with the lowest and the highest."""
    return f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def draw(runs: Sequence[Run], path: Path) -> None:
    """Loss over steps and over seconds, one panel a shape and axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shapes = list(dict.fromkeys(run.shape for run in runs))
    figure, panels = pyplot.subplots(
        len(shapes), 2, figsize=(9, 3.2 * len(shapes)), squeeze=False, sharey="row"
    )
    colours = dict(zip(ARMS, ("#555555", "#3f51b5", "#e08e0b"), strict=True))
    for row, shape in zip(panels, shapes, strict=True):
        for panel, axis in zip(row, ("steps", "seconds"), strict=True):
            for run in (run for run in runs if run.shape == shape):
                panel.plot(
                    getattr(run, axis),
                    run.losses,
                    color=colours[run.arm],
                    label=run.arm if run.seed == 0 else None,
                    linewidth=1.2,
                )
            panel.set_title(SHAPES[shape])
            panel.set_xlabel(f"{axis} of training")
            panel.set_ylabel("held-out nats per token")
            panel.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.over_encoding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="where results are written")
    parser.add_argument("--cache", type=Path, help="where trained models are kept")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Further.steps, help="a multiple of 100")
    parser.add_argument("--jobs", type=int, default=2, help="models trained at once")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    cache = arguments.cache or default_cache_dir()
    base = make_models(cache, processes=arguments.jobs, progress=True).base
    sources = {"demo": base}
    if "olmo2" in arguments.shapes:
        sources["olmo2"] = olmo2(cache, base)
    further = Further(steps=arguments.steps)
    kept = arguments.out / "runs"
    kept.mkdir(parents=True, exist_ok=True)
    wanted = [
        (kept / f"{shape}-{arm}-{seed}-{further.steps}.json", shape, arm, seed)
        for seed in range(arguments.seeds)
        for shape in arguments.shapes
        for arm in ARMS
    ]
    # A run that is there is not made again: a benchmark that was stopped goes on.
    todo = [each for each in wanted if not each[0].exists()]
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        jobs = []
        for entry, shape, arm, seed in todo:
            path = grown(sources[shape], arguments.out / "models" / f"{shape}-{arm}-{seed}", arm)
            settings = replace(further, seed=seed)
            jobs.append((entry, pool.submit(train, path, shape, arm, settings, base)))
        for entry, job in jobs:
            run = job.result()
            entry.write_text(json.dumps(asdict(run)), encoding="utf-8")
            print(f"{run.shape}, {run.arm}, seed {run.seed}: {run.losses[-1]:.4f}", flush=True)
    runs = [Run(**json.loads(entry.read_text())) for entry, *_ in wanted]
    shown = list(range(0, further.steps + 1, further.steps // 4))
    text = report(runs, shown)
    content = {"further": asdict(further), "runs": [asdict(run) for run in runs]}
    (arguments.out / "over_encoding.json").write_text(json.dumps(content, indent=1))
    (arguments.out / "over_encoding.md").write_text(text, encoding="utf-8")
    draw(runs, arguments.out / "over-encoding.png")
    print(text)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}")


if __name__ == "__main__":
    main()
