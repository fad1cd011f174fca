"""`mergekit-omp demo`: the main job, end to end, on models that it makes itself."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click


@click.command()
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where trained models are kept.  [default: in the user's cache folder]",
)
@click.option("--fresh", is_flag=True, help="Train the models again.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Processor cores to use.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Keep models, configs, merged models and the held-out text in this new or empty folder.",
)
def demo(cache: Path | None, fresh: bool, threads: int, keep: Path | None) -> None:
    """Swap a small model's tokenizer in several ways, and compare what is lost.

    Trains two small models with different tokenizers on text that comes with Python (minutes, the
    first time only), gives one the other's tokenizer with real mergekit-yaml commands, and prints
    bits per byte of held-out text and sample texts.
    """
    if keep is not None and keep.is_dir() and any(keep.iterdir()):
        raise click.UsageError(f"--keep {keep}: the folder is not empty. Name a new one.")
    # Set before torch starts its threads: threads that wait in a loop are slow on shared cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    click.echo("Loading libraries.")
    from mergekit_omp.demo.models import default_cache_dir
    from mergekit_omp.demo.run import CommandFailed, run_demo

    with tempfile.TemporaryDirectory(prefix="mergekit-omp-demo-") as scratch:
        folder = Path(scratch) if keep is None else keep
        try:
            run_demo(
                cache or default_cache_dir(), folder, fresh=fresh, threads=threads, echo=click.echo
            )
        except CommandFailed as failure:
            click.echo(failure.output, err=True)
            click.echo(f"Error: {failure}", err=True)
            raise SystemExit(failure.returncode) from failure
    if keep is not None:
        click.echo(f"Models, configs, merged models and the held-out text are in {keep}.")
