"""The options that say how a text is cut into windows: evaluate and compare have the same."""

from __future__ import annotations

import click

stride = click.option(
    "--stride",
    type=click.IntRange(min=1),
    help="Tokens by which windows advance in a long document.  [default: half the context]",
)
batch_size = click.option(
    "--batch-size", type=click.IntRange(min=1), help="Windows at once.  [default: what 1 GiB holds]"
)
