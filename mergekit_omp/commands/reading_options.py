"""The options that say which text is read and how it is cut: evaluate, compare and heal share them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
from click.decorators import FC

# Words and numbers of evaluation.documents, whose package takes a second to import.
_SPLITS = ("auto", "file", "paragraph", "line")


def text(purpose: str, *, required: bool = False) -> Callable[[FC], FC]:
    """`--text`, as `texts`: files and folders, for instance "to predict"."""
    return click.option(
        "--text",
        "texts",
        metavar="PATH",
        multiple=True,
        required=required,
        type=click.Path(exists=True, path_type=Path),
        help=f"A UTF-8 text file {purpose}, or a folder of .txt and .jsonl files; of .jsonl files "
        'each line\'s "text". Write it once for each.',
    )


def split(more: str = "") -> Callable[[FC], FC]:
    """`--split`; `more` is said behind what it does."""
    return click.option(
        "--split",
        type=click.Choice(_SPLITS),
        default="auto",
        show_default=True,
        help="What a document is. auto: a file where there are 10 or more, else a stretch of "
        f"paragraphs of at least 2000 bytes.{more}",
    )


stride = click.option(
    "--stride",
    type=click.IntRange(min=1),
    help="Tokens by which windows advance in a long document.  [default: half the context]",
)
batch_size = click.option(
    "--batch-size", type=click.IntRange(min=1), help="Windows at once.  [default: what 1 GiB holds]"
)
