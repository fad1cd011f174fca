"""`mergekit-omp compare`: which method to write, measured on a text without writing an output."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from mergekit_omp.commands import reading_options
from mergekit_omp.commands.merge_options import TakesMergeOptions
from mergekit_omp.commands.settings import parameters

_METHODS = "--methods"


@click.command(cls=TakesMergeOptions)
@click.argument("config_file", metavar="CONFIG", type=click.Path(exists=True, dir_okay=False))
@click.argument("more_methods", metavar="[METHOD]...", nargs=-1)
@reading_options.text("to predict")
@click.option(
    _METHODS,
    "methods",
    metavar="METHOD",
    multiple=True,
    help="A method to compare, with parameters or without: kriging, 'omp k=16'. Write it once for "
    "each, or the methods behind CONFIG.  [default: all that the donor allows]",
)
@reading_options.split()
@click.option(
    "--context",
    type=click.IntRange(min=1),
    help="Tokens that the model sees at once.  [default: 2048, or what it can read]",
)
@reading_options.stride
@reading_options.batch_size
@click.option(
    "--device",
    help="Where rows are made and the text is read: cpu, cuda, cuda:1, ...  [default: rows as "
    "mergekit-yaml does, the text on a GPU where there is one]",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="In which the text is read. auto: float32 on a CPU, else as the output would be stored.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page too, with a plot. Needs the extra `report`.",
)
@click.option(
    "--ray",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    help="Measure the methods side by side on a Ray cluster; without an address, on one that is "
    "started on this machine. Needs the extra `ray`.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; docs/compare.md has its keys.")
def compare(
    config_file: str,
    more_methods: tuple[str, ...],
    methods: tuple[str, ...],
    texts: tuple[Path, ...],
    html: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say which method suits the merge of CONFIG best, by bits per byte of a text.

    For each method the rows are made as mergekit-yaml would make them, and put into the body in
    memory: nothing is written. The config's own method keeps its parameters. Takes the options of
    mergekit-yaml too: give it those that the merge will get.

    \b
        mergekit-omp compare swap.yml --text book.txt
        mergekit-omp compare swap.yml kriging omp 'omp k=16' --text articles/
    """
    asked = [_asked(words) for words in (*methods, *more_methods)]
    if not texts:
        raise click.UsageError("name a text with --text")
    if html is not None:
        from mergekit_omp.report.figures import require_matplotlib
        from mergekit_omp.report.write import check_path

        require_matplotlib("or leave --html out")
        check_path(html, "--html")
    if options["ray"] is not None:
        from mergekit_omp.comparison.on_ray import require_ray

        require_ray()
    from mergekit.options import MergeOptions, add_merge_options

    def run(
        merge_options: MergeOptions,
        split: str,
        context: int | None,
        stride: int | None,
        batch_size: int | None,
        dtype: str,
        ray: str | None,
    ) -> dict[str, Any]:
        from mergekit_omp.comparison.command import run as run_comparison

        return run_comparison(
            config_file,
            texts,
            asked,
            merge_options=merge_options,
            split=split,
            context=context,
            stride=stride,
            batch_size=batch_size,
            device=options["device"] or ("cuda" if merge_options.cuda else "auto"),
            dtype=dtype,
            ray=ray,
        )

    try:
        result = add_merge_options(run)(**options)
    except ValueError as error:
        raise click.ClickException(f"{str(error).rstrip('.')}.") from error
    if html is not None:
        from mergekit_omp.comparison.page import page
        from mergekit_omp.report.write import write_page

        write_page(html, page(result))
    from mergekit_omp.comparison.as_text import as_text
    from mergekit_omp.outside import display

    click.echo(display.as_json(result) if as_json else display.on_terminal(as_text(result)))


def _asked(words: str) -> tuple[str, str, dict[str, Any]]:
    """A method as a user writes it: its name as it is shown, the method, its settings."""
    try:
        method, *settings = shlex.split(words)
    except ValueError as error:
        raise click.BadParameter(
            f"{words!r} is no method with parameters; write for instance 'omp k=16'",
            param_hint=_METHODS,
        ) from error
    return " ".join([method, *settings]), method, parameters(settings, _METHODS)
