"""`mergekit-omp evaluate`: how well models predict a text, comparable across tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mergekit_omp.commands import reading_options


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1)
@reading_options.text("to predict")
@reading_options.split()
@click.option(
    "--base",
    metavar="MODEL",
    help="The model that got another tokenizer, for the agreement.  [default: as tokenizer_transplant.json says]",
)
@click.option(
    "--tasks", metavar="NAME,...", help="Tasks of lm-evaluation-harness to run on the models."
)
@click.option(
    "--include-path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with tasks of your own.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Examples of each task to run.")
@click.option(
    "--context",
    type=click.IntRange(min=1),
    help="Tokens that a model sees at once.  [default: 2048, or what all models can read]",
)
@reading_options.stride
@reading_options.batch_size
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="auto: float32 on a CPU, else as the model is stored.",
)
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with a model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; docs/evaluate.md has its keys.")
@click.option("--quiet", is_flag=True, help="No progress and no warnings.")
def evaluate(
    models: tuple[str, ...],
    texts: tuple[Path, ...],
    split: str,
    base: str | None,
    tasks: str | None,
    include_path: Path | None,
    limit: int | None,
    context: int | None,
    stride: int | None,
    batch_size: int | None,
    device: str,
    dtype: str,
    trust_remote_code: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure how well models predict text, in bits per byte: lower is better.

    Bits per byte compare models of different tokenizers. For a model that a transplant made,
    tokens with approximated rows are shown apart, and how often its most likely token is the
    base's. Intervals are by bootstrap over documents; models are compared pair by pair.

    \b
        mergekit-omp evaluate base/ out/ --text book.txt
        mergekit-omp evaluate out-omp/ out-mean/ --text articles/ --text book.txt
    """
    if not models:
        raise click.UsageError("name at least one model")
    if not texts and not tasks:
        raise click.UsageError("name a text with --text, or tasks with --tasks")
    result: dict[str, Any] = {}
    try:
        if tasks:
            from mergekit_omp.evaluation.harness import check_installed

            check_installed()
        loading = _loading(device, dtype, trust_remote_code)
        if texts:
            result = _texts(models, texts, split, base, loading, quiet, context, stride, batch_size)
            if not as_json:
                from mergekit_omp.evaluation.table import rendered

                click.echo(rendered(result))
        if tasks:
            from mergekit_omp.evaluation.harness import run_tasks
            from mergekit_omp.evaluation.table import rendered_tasks

            names = [name.strip() for name in tasks.split(",") if name.strip()]
            result["tasks"] = run_tasks(
                models,
                names,
                include_path=include_path,
                limit=limit,
                batch_size=batch_size,
                loading=loading,
                quiet=quiet,
            )
            if not as_json:
                click.echo(("\n" if texts else "") + rendered_tasks(result["tasks"]))
    except (ValueError, ImportError) as error:
        raise click.ClickException(f"{str(error).rstrip('.')}.") from error
    if as_json:
        from mergekit_omp.outside.display import as_json as escaped_json

        click.echo(escaped_json(result))


def _loading(device: str, dtype: str, trust_remote_code: bool) -> Any:
    from transformers.utils import logging as transformers_logging

    from mergekit_omp.evaluation.models import Loading

    # Reading weights takes a moment; its bars would hide those of the evaluation.
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    loading = Loading(device, dtype, trust_remote_code)
    loading.torch_device()
    return loading


def _texts(
    models: tuple[str, ...],
    texts: Sequence[Path],
    split: str,
    base: str | None,
    loading: Any,
    quiet: bool,
    context: int | None,
    stride: int | None,
    batch_size: int | None,
) -> dict[str, Any]:
    from mergekit_omp.evaluation.documents import files_in, read_documents
    from mergekit_omp.evaluation.evaluate import ReadingOptions
    from mergekit_omp.evaluation.evaluate import evaluate as evaluate_models

    def warn(message: str) -> None:
        if not quiet:
            click.echo(f"Warning: {message}", err=True)

    texts = files_in(texts)
    read = read_documents(texts, split)
    result = evaluate_models(
        models,
        read.documents,
        base=base,
        loading=loading,
        reading=ReadingOptions(context, stride, batch_size, progress=not quiet),
        warn=warn,
    )
    result["text"] = {
        "files": [str(path) for path in texts],
        "split": read.split,
        **result["text"],
    }
    return result
