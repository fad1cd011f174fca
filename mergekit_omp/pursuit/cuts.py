"""Where targets may be cut into blocks that are worked on apart."""

from __future__ import annotations

BLOCK = 4096
"""Targets that are cut at multiples of it can be worked on apart, with results that are equal to the
last bit: nothing is computed for a batch that goes beyond such a cut. A power of two."""


def power_of_two(most: int) -> int:
    """The largest power of two that is at most `most` and a `BLOCK`; 1 where even that is more."""
    return 1 << max(min(most, BLOCK).bit_length() - 1, 0)
