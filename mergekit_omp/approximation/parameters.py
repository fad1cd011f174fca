"""Types of parameters: what a merge config may write for a whole number, a number, a seed.

A merge config yields bool, int, float and str; numbers in scientific notation may come as text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    WrapValidator,
)


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
"""A whole number of at least 0."""

Seed = Annotated[int, BeforeValidator(_whole_number), Field(ge=0, lt=2**32)]
"""The seed of a random generator."""

PositiveFloat = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""


def _bytes(value: Any, parse: Callable[[Any], Any]) -> Any:
    try:
        amount = parse(value)
    except ValueError:
        amount = -1
    if amount is not None and (isinstance(value, bool) or amount < 0):
        raise ValueError(f"{value!r} is not an amount of memory: write one such as 4GB")
    return amount


Bytes = Annotated[ByteSize | None, WrapValidator(_bytes)]
"""An amount of memory: a number of bytes, or text such as 4GB, 500MB or 2GiB."""
