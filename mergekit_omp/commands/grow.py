"""`mergekit-omp grow`: tables of n-grams for a finished model, to be trained further."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from click.core import ParameterSource


def _orders(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(order) for order in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 2,3") from error


_BELONG = {
    "orders": "--over-encoding",
    "rows": "--over-encoding",
    "width": "--over-encoding",
    "splits": "--over-encoding",
    "share": "--restore",
    "texts": "--restore",
}
"""Options that say how another one is done."""


@click.command()
@click.argument("model")
@click.argument("out")
@click.option(
    "--over-encoding", is_flag=True, help="Add tables of the n-grams that end in each token."
)
@click.option(
    "--orders",
    default="2,3",
    show_default=True,
    callback=_orders,
    help="How many tokens the n-grams have.",
)
@click.option(
    "--rows", type=int, default=1_000_003, show_default=True, help="Rows of the first table."
)
@click.option("--width", type=int, default=64, show_default=True, help="Numbers in a row.")
@click.option("--splits", type=int, default=1, show_default=True, help="Tables for each order.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random projections.")
@click.option(
    "--restore",
    metavar="BASE",
    help="Give back the base's rows of the tokens that a swap lost. BASE: what MODEL was made from.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Of the base's row in what the last piece of such a token gets.",
)
@click.option(
    "--text",
    "texts",
    metavar="PATH",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A text on which to say how often such rows are met.  [default: a built-in one]",
)
@click.option(
    "--over-decoding",
    type=click.IntRange(1, 16),
    metavar="N",
    help="Add N heads for the tokens after the next. Untrained they predict nothing.",
)
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@click.pass_context
def grow(
    context: click.Context,
    model: str,
    out: str,
    over_encoding: bool,
    orders: tuple[int, ...],
    rows: int,
    width: int,
    splits: int,
    seed: int,
    restore: str | None,
    share: float,
    texts: tuple[Path, ...],
    over_decoding: int | None,
    quiet: bool,
) -> None:
    """Let MODEL read more of its input than single tokens, and write the result to OUT.

    MODEL is a folder or a name on a hub; OUT must be new or empty. With --over-encoding alone OUT
    says exactly what MODEL says until it is trained further: its logits are compared to the bit
    before it counts as finished. --restore works without training, on the output of a swap.

    \b
        mergekit-omp grow out/ grown/ --over-encoding
        mergekit-omp grow out/ restored/ --restore meta-llama/Llama-3.2-1B
    """
    if not over_encoding and restore is None and not over_decoding:
        raise click.UsageError(
            "Say what to add: --over-encoding, --restore BASE, --over-decoding N, or several."
        )
    chosen = {"--over-encoding": over_encoding, "--restore": restore is not None}
    for parameter in context.command.params:
        wanted = _BELONG.get(str(parameter.name))
        source = context.get_parameter_source(str(parameter.name))
        if wanted and not chosen[wanted] and source is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{parameter.opts[0]} says nothing without {wanted}.")
    from mergekit_omp.growth.grow import check_destination, plan, write
    from mergekit_omp.growth.restore import RestoreSettings, read_texts
    from mergekit_omp.growth.settings import TableSettings
    from mergekit_omp.vocabulary.lost import WORTHWHILE

    def tell(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    check_destination(out)
    growth = plan(
        model,
        TableSettings(orders, rows, width, splits, seed) if over_encoding else None,
        None if restore is None else RestoreSettings(restore, share, 1 - share, read_texts(texts)),
        over_decoding or 0,
    )
    for table in growth.entry["tables"]:
        tell(f"  {table['rows']:,} rows of {width} for n-grams of {table['order']} tokens")
    if growth.hit is not None:
        tell(f"  {growth.entry['exact']['entries']:,} rows of {restore}")
        tell(
            f"{growth.hit:.1%} of the positions of {'the text' if texts else 'a built-in text'} get "
            "such a row."
            + (" There is little to gain from them." if growth.hit < WORTHWHILE else "")
        )
    if over_decoding:
        tell(f"  {over_decoding} heads for the tokens after the next, which predict nothing yet")
    tell(
        f"{model} ({growth.source.class_name}) has {growth.source.parameters:,} parameters, "
        f"{growth.source.size / 1e6:,.1f} MB; {growth.parameters:,} parameters are added, "
        f"{growth.size / 1e6:,.1f} MB."
    )
    write(growth, out, progress=not quiet, told=tell)
    if over_encoding or over_decoding:
        tell(f"Next: train {shlex.quote(out)} further, which is what tables and heads are for.")
