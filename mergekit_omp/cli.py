"""The command `mergekit-omp`. Merges themselves are plain `mergekit-yaml`.

Commands import what they need when they run, so that `--help` is immediate.
"""

from __future__ import annotations

import click

import mergekit_omp
from mergekit_omp.commands.demo import demo
from mergekit_omp.commands.evaluate import evaluate
from mergekit_omp.commands.inspect import inspect
from mergekit_omp.commands.report import report


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mergekit_omp.__version__, prog_name="mergekit-omp")
def main() -> None:
    """Give a model another model's tokenizer, without training.

    The merge methods are part of mergekit once this package is installed: write
    `merge_method: omp` in a config and run `mergekit-yaml config.yml out/`.
    """


main.add_command(demo)
main.add_command(evaluate)
main.add_command(inspect)
main.add_command(report)
