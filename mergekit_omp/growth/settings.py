"""What to grow a model by: sizes of tables, checked where they enter.

The hash of the Over-Encoding paper (arXiv 2501.16975) needs a number of rows that shares no factor
with the size of the vocabulary: else tokens of one remainder always meet in one row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mergekit_omp.errors import TransplantError

LONGEST_ORDER = 16
MOST_ROWS = 1 << 40
"""Products of an id and a power modulo the rows must fit in 63 bits."""


@dataclass(frozen=True)
class TableSettings:
    """The hashed tables of Over-Encoding."""

    orders: tuple[int, ...] = (2, 3)
    rows: int = 1_000_003
    width: int = 64
    splits: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.orders or len(set(self.orders)) != len(self.orders):
            raise TransplantError("--orders names no order, or one twice. Write for instance 2,3.")
        for order in self.orders:
            if not 1 <= order <= LONGEST_ORDER:
                raise TransplantError(
                    f"--orders has {order}: an n-gram has 1 to {LONGEST_ORDER} tokens."
                )
        for name, value in (("rows", self.rows), ("width", self.width), ("splits", self.splits)):
            if not 1 <= value < MOST_ROWS:
                raise TransplantError(f"--{name} is {value}. Write a number from 1 to 2^40.")

    def tables(self, vocabulary: int) -> list[dict[str, int]]:
        """Order and rows of each table; `vocabulary` is the V of the hash.

        Raises TransplantError for fewer rows than tokens, and for rows that share a factor with V.
        """
        if self.rows < vocabulary:
            raise TransplantError(
                f"--rows is {self.rows}, fewer than the model's {vocabulary} tokens: a table of "
                f"n-grams that is smaller than one of tokens gains nothing. Write at least "
                f"{_coprime(vocabulary + 1, vocabulary)}."
            )
        if (factor := math.gcd(self.rows, vocabulary)) != 1:
            raise TransplantError(
                f"--rows is {self.rows}, which shares the factor {factor} with the model's "
                f"{vocabulary} rows of tokens: n-grams would not spread over all rows. Write "
                f"{_coprime(self.rows, vocabulary)}."
            )
        found: list[dict[str, int]] = []
        rows = self.rows
        for order in self.orders:
            for _ in range(self.splits):
                found.append({"order": order, "rows": rows})
                # Other rows for each table, so that n-grams that meet in one part in the next.
                rows = _coprime(rows + 2, vocabulary)
        return found


def settings_entry(wraps: str, vocabulary: int, settings: TableSettings | None) -> dict[str, Any]:
    """What the model class reads: `over_encoding` in the output's config.json."""
    return {
        "wraps": wraps,
        "hash_base": vocabulary,
        "width": settings.width if settings else 0,
        "tables": settings.tables(vocabulary) if settings else [],
    }


def _coprime(least: int, vocabulary: int) -> int:
    """The first number from `least` on that shares no factor with the vocabulary's size."""
    while math.gcd(least, vocabulary) != 1:
        least += 1
    return least
