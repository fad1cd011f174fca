"""The demo: real merges of two small models, and what is left of the base afterwards.

Everything happens in one folder, in which the configs are run as they stand: `models/base` and
`models/donor`, the YAML files, one output folder for each, and the text that they are compared on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import textwrap
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

import torch
import transformers
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mergekit_omp.demo.corpus import Document, TextKind
from mergekit_omp.demo.models import DEMO, DemoModels, DemoSpec, make_models
from mergekit_omp.demo.table import Row, rendered, wrapped
from mergekit_omp.evaluation import TextScore, bits_per_byte

PROMPTS = ("Return True if", "This method is")
"""How the sample texts begin."""

HELD_OUT = "held-out.jsonl"
"""The text of the table, as `mergekit-omp evaluate --text` reads it."""

_SAMPLE_CHARACTERS = 130
"""About how much of a sample text to show."""


@dataclass(frozen=True)
class Run:
    """One command of the demo, run in its folder, and the folder that it writes."""

    label: str
    command: tuple[str, ...]
    output: str
    plugin: bool = True
    sample: bool = False
    """Whether to show what the model writes."""


RUNS = (
    Run(
        "mergekit alone",
        ("mergekit-yaml", "mergekit.yml", "mergekit"),
        "mergekit",
        plugin=False,
        sample=True,
    ),
    Run("zero", ("mergekit-yaml", "zero.yml", "zero"), "zero"),
    Run("mean", ("mergekit-yaml", "mean.yml", "mean"), "mean"),
    Run(
        "mergekit-tokensurgeon",
        (
            "mergekit-tokensurgeon",
            *("./models/base", "./models/donor", "tokensurgeon", "-a", "omp", "-k", "8"),
        ),
        "tokensurgeon",
        plugin=False,
    ),
    Run("omp", ("mergekit-yaml", "omp.yml", "omp"), "omp"),
    Run("kriging", ("mergekit-yaml", "kriging.yml", "kriging"), "kriging", sample=True),
)
"""What the demo runs, in the order of its table. 8 is what `omp` takes here by default."""


class CommandFailed(Exception):
    """A command of the demo failed. `output` is all that it printed."""

    def __init__(self, command: Sequence[str], returncode: int, output: str) -> None:
        super().__init__(f"`{' '.join(command)}` failed with exit status {returncode}")
        self.returncode = returncode
        self.output = output


def run_demo(
    cache_dir: Path,
    folder: Path,
    *,
    spec: DemoSpec = DEMO,
    runs: Sequence[Run] = RUNS,
    fresh: bool = False,
    threads: int = 2,
    echo: Callable[[str], None] = print,
) -> list[Row]:
    """Makes the models, runs every command of `runs` in `folder`, and prints what came of it.

    Args:
        cache_dir: where the trained models are kept.
        folder: where configs and outputs go; it must be empty.
        spec: which models to make.
        runs: the commands.
        fresh: train the models again even if they are in the cache.
        threads: models trained and commands run at once, and threads that evaluate.
        echo: prints one line.

    Returns:
        The table's rows: the base with its own tokenizer, then one for each run.

    Raises:
        CommandFailed: a command failed.
    """
    began = time.perf_counter()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    models = make_models(
        cache_dir, spec, fresh=fresh, processes=threads, progress=True, announce=echo
    )
    _prepare(folder, models)
    pool = ThreadPoolExecutor(threads)
    try:
        # Side by side: a command spends most of its time importing libraries, on one core.
        jobs = [pool.submit(execute, run, folder) for run in runs]
        echo(f"The models are in {cache_dir}:")
        echo(f"  base   {_described(models.base)}")
        echo(f"  donor  {_described(models.donor)}")
        echo("\nThe base gets the donor's tokenizer. kriging.yml:\n")
        for line in (folder / "kriging.yml").read_text(encoding="utf-8").splitlines():
            echo(f"  {line}".rstrip())
        echo("")
        base = _load(folder / "models" / "base")
        rows = [_row("base, own tokenizer", base, models.held_out)]
        samples = {"base": _samples(base)}
        for run, job in zip(runs, jobs, strict=True):
            job.result()
            echo(f"$ {' '.join(run.command)}")
            output = _load(folder / run.output)
            row = _row(run.label, output, models.held_out)
            copied, new = _count_rows(base.input_rows, output.input_rows)
            rows.append(replace(row, copied=copied, new=new))
            if run.sample:
                samples[run.label] = _samples(output)
    finally:
        pool.shutdown(cancel_futures=True)
    echo(f"\n{rendered(rows)}\n")
    for i, prompt in enumerate(PROMPTS):
        echo(f"After {prompt!r}:")
        for label, texts in samples.items():
            echo(wrapped(f"{label:>16}  ", texts[i]))
    echo(f"\nDone in {time.perf_counter() - began:.0f} s.")
    return rows


def _described(path: Path) -> str:
    """A model in one line, with how its tokenizer cuts a word and a number."""
    config = AutoConfig.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    pieces = tokenizer.tokenize("return 1234")
    return (
        f"{config.num_hidden_layers} layers of {config.hidden_size}, {config.vocab_size} tokens; "
        f"'return 1234' is {' '.join(pieces)}"
    )


def _prepare(folder: Path, models: DemoModels) -> None:
    """Puts the models, the configs and the text where commands find them."""
    shutil.copytree(models.base, folder / "models" / "base")
    shutil.copytree(models.donor, folder / "models" / "donor")
    with as_file(files("mergekit_omp.demo") / "configs") as configs:
        for config in sorted(configs.glob("*.yml")):
            shutil.copy(config, folder / config.name)
    with open(folder / HELD_OUT, "w", encoding="utf-8") as file:
        for document in models.held_out:
            file.write(json.dumps({"text": document.text}) + "\n")


def execute(run: Run, folder: Path) -> None:
    """Runs a command to its end."""
    scripts = sysconfig.get_path("scripts")
    program = shutil.which(run.command[0], path=scripts) or shutil.which(run.command[0])
    if program is None:
        raise CommandFailed(run.command, 127, f"There is no {run.command[0]} in {scripts}.")
    environment = {
        **os.environ,
        # Commands run side by side: more threads each would only wait for one another.
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUTF8": "1",
        "MERGEKIT_OMP_DISABLE": "" if run.plugin else "1",
    }
    done = subprocess.run(
        [program, *run.command[1:]],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise CommandFailed(run.command, done.returncode, done.stdout)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A saved model and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def input_rows(self) -> Float[Tensor, "tokens dim"]:
        return self.model.get_input_embeddings().weight.detach()


def _load(path: Path) -> _Loaded:
    model = AutoModelForCausalLM.from_pretrained(path).float()
    return _Loaded(model.eval(), AutoTokenizer.from_pretrained(path))


def _row(label: str, loaded: _Loaded, documents: Sequence[Document]) -> Row:
    """The table's row of a model: its score on all documents, and by kind."""
    score = bits_per_byte(
        loaded.model,
        loaded.tokenizer,
        [document.text for document in documents],
        context=128,
        stride=96,
        batch_size=16,
    )
    scored = list(zip(score.documents, documents, strict=True))
    return Row(
        label,
        bits_per_byte=score.bits_per_byte,
        by_kind={
            kind: TextScore(tuple(s for s, d in scored if d.kind == kind)).bits_per_byte
            for kind in TextKind
        },
    )


def _samples(loaded: _Loaded) -> list[str]:
    """What a model finds most likely after each of the prompts, token by token."""
    samples = []
    for prompt in PROMPTS:
        inputs = loaded.tokenizer(prompt, return_tensors="pt")
        ids = loaded.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=32,
            do_sample=False,
            no_repeat_ngram_size=4,
        )
        text = loaded.tokenizer.decode(ids[0], skip_special_tokens=True)
        samples.append(textwrap.shorten(text, _SAMPLE_CHARACTERS, placeholder=" ..."))
    return samples


def _count_rows(
    base: Float[Tensor, "base_tokens dim"], output: Float[Tensor, "tokens dim"]
) -> tuple[int, int]:
    """How many of the output's rows are rows of the base, bit for bit, and how many are not."""
    known = {row.tobytes() for row in base.numpy() if row.any()}
    copied = sum(row.tobytes() in known for row in output.numpy())
    return copied, len(output) - copied
