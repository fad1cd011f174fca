"""The command `mergekit-omp`. Merges themselves are mergekit's: `swap` writes a config for one.

Commands import what they need when they run, so that `--help` is immediate.
"""

from __future__ import annotations

import click

import mergekit_omp
from mergekit_omp import autoload
from mergekit_omp.commands.compare import compare
from mergekit_omp.commands.demo import demo
from mergekit_omp.commands.evaluate import evaluate
from mergekit_omp.commands.grow import grow
from mergekit_omp.commands.heal import heal
from mergekit_omp.commands.inspect import inspect
from mergekit_omp.commands.report import report
from mergekit_omp.commands.swap import swap

NEED_THE_PLUGIN = ("compare", "inspect", "report", "swap")
"""Commands that plan a merge, and so need the methods to be registered."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mergekit_omp.__version__, prog_name="mergekit-omp")
@click.pass_context
def main(context: click.Context) -> None:
    """Give a model another model's tokenizer, without training.

    The merge methods are part of mergekit once this package is installed: write
    `merge_method: kriging` in a config and run `mergekit-yaml config.yml out/`.
    """
    if context.invoked_subcommand in NEED_THE_PLUGIN and autoload.disabled():
        raise click.ClickException(
            "MERGEKIT_OMP_DISABLE turns mergekit-omp off. Unset it to use this command."
        )


main.add_command(compare)
main.add_command(demo)
main.add_command(evaluate)
main.add_command(grow)
main.add_command(heal)
main.add_command(inspect)
main.add_command(report)
main.add_command(swap)
