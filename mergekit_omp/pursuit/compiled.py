"""Compiles kernels with Numba where it is installed; without it `AVAILABLE` is false."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

try:
    import numba
except ImportError:  # torch alone is a working path
    numba = None

AVAILABLE = numba is not None

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compiles at first use, for calls that release the interpreter's lock.

    Compiled code is kept beside the source, or in the user's cache directory where that is
    read-only; where neither can be written, every process compiles for itself.
    """
    if numba is None:
        return function
    # Tests wrap every function to check its shapes; Numba needs the function itself.
    function = inspect.unwrap(function)
    options = {"nogil": True, "fastmath": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # what Numba raises where it can write no cache
        return numba.njit(**options)(function)


def instruction(typed: Callable[..., Any]) -> Callable[..., Any]:
    """A function that kernels may call, and whose code is emitted rather than compiled.

    `typed` takes Numba's types of the arguments and gives the signature and what emits the code.
    """
    if numba is None:
        return typed
    from numba.extending import intrinsic

    emitted: Callable[..., Any] = intrinsic(inspect.unwrap(typed))
    return emitted
