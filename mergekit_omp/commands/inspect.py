"""`mergekit-omp inspect`: what a transplant will do, before it is done."""

from __future__ import annotations

from typing import Any

import click

from mergekit_omp.commands.merge_options import TakesMergeOptions


@click.command(cls=TakesMergeOptions)
@click.argument("config_file", type=click.Path(exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (docs/inspect.md).")
def inspect(config_file: str, as_json: bool, **options: Any) -> None:
    """Show what the merge of CONFIG_FILE will do to the vocabulary, without doing it.

    Reads tokenizers and the headers of weights, writes nothing, and takes the options of
    mergekit-yaml: give it those that the merge will get.
    """
    from mergekit.options import add_merge_options

    from mergekit_omp.inspection.command import run

    click.echo(add_merge_options(run)(config_file=config_file, as_json=as_json, **options))
