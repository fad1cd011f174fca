"""Numbers in sentences: 1 row, 2 rows."""

from __future__ import annotations


def counted(number: int, noun: str, *, separate: bool = False) -> str:
    """'1 row', '1200 rows'; with `separate` '1,200 rows'. The plural of the noun has an s."""
    written = f"{number:,}" if separate else str(number)
    return f"{written} {noun}{'' if number == 1 else 's'}"
