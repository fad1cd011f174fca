"""Compiles kernels with Numba where it is installed, and says what the processor can do.

Kernels are plain functions of NumPy arrays. Numba ignores their annotations, which say the shapes.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from tqdm import tqdm

try:
    import numba

    from mergekit_omp.kernels import kernel_cache, wide_vectors

    UNUSABLE = "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else ""
except ImportError as error:  # torch alone is a working path
    UNUSABLE = f"Numba cannot be imported ({error})"

AVAILABLE = not UNUSABLE

MATHS = {"reassoc", "contract", "arcp", "nsz", "afn"}
"""What the compiler may do with floats. Not: assume that there are no infinities and no NaNs."""

KERNELS: dict[str, tuple[Any, Callable[..., Any]]] = {}
"""Every kernel, compiled and as it was written."""

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compiles at first use, for calls that release the interpreter's lock.

    Compiled code is kept on disk; see `kernel_cache`.
    """
    # Tests wrap every function to check its shapes; Numba needs the function itself.
    plain = inspect.unwrap(function)
    made: Any = plain
    if AVAILABLE:
        compiler = wide_vectors.Compiler
        options = {"nogil": True, "fastmath": MATHS, "error_model": "numpy"}
        made = numba.njit(pipeline_class=compiler, **options)(plain)
        # What `enable_caching` does, with another cache.
        made._cache = kernel_cache.KernelCache(plain)
    KERNELS[f"{plain.__module__}.{plain.__name__}"] = made, plain
    return made


def telling(progress: bool) -> AbstractContextManager[None]:
    """Where progress is shown, also says what is compiled: it takes as long as many targets."""
    if not (AVAILABLE and progress):
        return nullcontext()
    return kernel_cache.telling(partial(tqdm.write, file=sys.stderr))


def obstacle() -> str | None:
    """Why kernels do not run compiled here, which is too slow to be of use; None where they do."""
    return None if AVAILABLE else UNUSABLE


def has_instructions(*names: str) -> bool:
    """Whether the processor has any of these, by torch's names; older releases of torch tell none.

    MERGEKIT_OMP_INSTRUCTIONS names, with commas, the only ones to use: nothing for none.
    """
    told = os.environ.get("MERGEKIT_OMP_INSTRUCTIONS")
    if told is not None and not set(names) & set(told.split(",")):
        return False
    features: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(features.get(name) for name in names if told is None or name in told.split(","))
