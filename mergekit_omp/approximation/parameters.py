"""Types of parameters: what a merge config may write for a whole number, a number, a seed.

A merge config yields bool, int, float and str; numbers in scientific notation may come as text.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _whole_number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number: write a whole number without quotes")
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{value!r} is not whole: write a whole number")
    return int(value)


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number: write a number")
    return value


PositiveInt = Annotated[int, BeforeValidator(_whole_number), Field(ge=1)]
"""A whole number of at least 1. Text, bool and fractions are refused."""

Count = Annotated[int, BeforeValidator(_whole_number), Field(ge=0)]
"""A whole number, or 0."""

Seed = Annotated[int, BeforeValidator(_whole_number), Field(ge=0, lt=2**32)]
"""What starts a random generator."""

PositiveFloat = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def _bytes(value: Any) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", str(value), re.IGNORECASE)
    if isinstance(value, bool) or found is None:
        raise ValueError(f"{value!r} is not an amount of memory: write one such as 4GB")
    return int(float(found[1]) * _UNITS[found[2].lower()])


Bytes = Annotated[int | None, BeforeValidator(_bytes)]
"""An amount of memory: a number of bytes, or text such as 4GB or 500MB (powers of ten)."""
