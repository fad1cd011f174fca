"""The demo's table and sample texts, in plain text of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from mergekit_omp.demo.corpus import TextKind
from mergekit_omp.outside.columns import Columns

WIDTH = 80


@dataclass(frozen=True)
class Row:
    """One line of the table: bits per byte of held-out text, and how the model was made.

    `copied` counts token rows that the base has, `new` those that it does not have.
    """

    label: str
    bits_per_byte: float
    by_kind: dict[TextKind, float]
    copied: int | None = None
    new: int | None = None


def rendered(rows: Sequence[Row]) -> str:
    """The table. Bits per byte are of held-out text: all of it, and by kind."""
    kinds = list(TextKind)
    columns = Columns("<22", ">7", ">7", "<2", *[">8"] * (1 + len(kinds)))
    over = Columns("<22", ">14", "<2", ">32")
    lines = [
        over.line("", "token rows", "", "bits per byte, held-out text"),
        columns.line("", "copied", "new", "", "all", *(kind.value for kind in kinds)),
        "-" * (38 + 8 * (1 + len(kinds))),
    ]
    for row in rows:
        numbers = (row.bits_per_byte, *(row.by_kind[kind] for kind in kinds))
        figures = [f"{number:.3f}" for number in numbers]
        lines.append(columns.line(row.label, _count(row.copied), _count(row.new), "", *figures))
    return "\n".join(lines)


def wrapped(label: str, text: str) -> str:
    """A text behind a label, in lines that fit a terminal."""
    return textwrap.fill(
        text, width=WIDTH, initial_indent=label, subsequent_indent=" " * len(label)
    )


def _count(number: int | None) -> str:
    return "" if number is None else str(number)
