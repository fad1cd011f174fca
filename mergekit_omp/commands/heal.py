"""`mergekit-omp heal`: train the rows that a merge approximated, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from mergekit_omp.commands import reading_options


@click.command()
@click.argument("out")
@click.argument("healed")
@reading_options.text("to train on", required=True)
@reading_options.split(" The last documents are held out.")
@click.option(
    "--steps", type=click.IntRange(min=1), default=300, show_default=True, help="At most."
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Windows of text in a step.",
)
@click.option(
    "--context",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Tokens in a window.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Adam's.  [default: a twentieth of the typical entry of each matrix]",
)
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=25,
    show_default=True,
    help="Steps between evaluations, each of which leaves a checkpoint.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Evaluations without a lower loss after which it stops.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--lora",
    metavar="R",
    type=click.IntRange(min=1),
    help="Train adapters of this rank beside the rows, and merge them into the body.",
)
@click.option("--restart", is_flag=True, help="Begin anew where an earlier run left checkpoints.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="To compute in; the output keeps its own. auto: float32 on a CPU, else as the model is stored.",
)
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with a model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; docs/heal.md has its keys.")
@click.option("--quiet", is_flag=True, help="No progress.")
def heal(
    out: str,
    healed: str,
    texts: tuple[Path, ...],
    split: str,
    restart: bool,
    device: str,
    dtype: str,
    trust_remote_code: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train the rows that the merge in OUT approximated, and write the whole model to HEALED.

    The body and every row that was copied stay as they are, bit for bit, unless --lora is given. The end of the text is held
    out: training stops where its loss no longer falls. A healing that is interrupted goes on where
    it was when the same command is given again.

    \b
        mergekit-omp heal out/ healed/ --text articles/ --text book.txt
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _check_installed()
    from transformers.utils import logging as transformers_logging

    from mergekit_omp.evaluation.documents import files_in, read_documents
    from mergekit_omp.evaluation.models import Loading
    from mergekit_omp.healing.checkpoints import Checkpoints
    from mergekit_omp.healing.heal import heal as heal_model
    from mergekit_omp.healing.settings import Settings
    from mergekit_omp.healing.texts import parted

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()

    def say(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    try:
        loading = Loading(device, dtype, trust_remote_code)
        loading.torch_device()
        read = read_documents(files_in(texts), split)
        result = heal_model(
            out,
            healed,
            parted(read.documents),
            Settings(**settings),
            loading=loading,
            restart=restart,
            progress=not quiet,
            say=say,
        )
    except ValueError as error:
        raise click.ClickException(f"{str(error).rstrip('.')}.") from error
    except KeyboardInterrupt:
        last = Checkpoints(healed).last()
        where = f"goes on from step {last[0]}" if last else "begins anew"
        click.echo(f"\nInterrupted. The same command {where}.", err=True)
        raise SystemExit(130) from None
    if as_json:
        from mergekit_omp.outside.display import as_json as escaped_json

        click.echo(escaped_json(result))
        return
    from mergekit_omp.evaluation.table import rendered
    from mergekit_omp.healing.telling import told

    click.echo(rendered(result))
    click.echo(told(result["healing"], healed))


def _check_installed() -> None:
    import importlib.util

    missing = [name for name in ("peft", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise click.ClickException(
            f"heal needs {' and '.join(missing)}, not installed here: pip install 'mergekit-omp[heal]'"
        )
