"""Tables in plain text, whose columns have widths of their own.

Libraries for tables (rich, tabulate) make a column as wide as its longest entry, and shorten a name
at its end, which is where the names of models and tensors differ.
"""

from __future__ import annotations

from collections.abc import Sequence


class Columns:
    """Columns by the format of each, as `f"{cell:{format}}"` takes it: `<32`, `>10`, `^16`."""

    def __init__(self, *formats: str):
        self._formats = formats

    def line(self, *cells: object) -> str:
        """One line of the table, without space at its end; the last columns may be left out."""
        formats = self._formats[: len(cells)]
        return "".join(f"{c!s:{f}}" for c, f in zip(cells, formats, strict=True)).rstrip()


def shortened(name: str, width: int) -> str:
    """A name, or its end where it is longer than `width`: that is where names differ."""
    return name if len(name) <= width else f"...{name[-width + 3 :]}"


def fitted(rows: Sequence[Sequence[str]], gap: int = 2) -> list[str]:
    """Rows of cells in columns that are as wide as their longest cell."""
    widths = [max(map(len, cells)) + gap for cells in zip(*rows, strict=True)]
    columns = Columns(*(f"<{width}" for width in widths))
    return [columns.line(*cells) for cells in rows]
