"""Keeps compiled kernels in the user's cache folder, so that only a first run compiles.

Numba's own cache (`numba.core.caching`) trusts what it reads and passes on what the disk says: a
damaged file ends the program. Here a file begins with a digest of the rest, and one that does not
match is compiled and written anew. A folder that cannot be written costs one warning.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import _Cache, dumps
from numba.core.compiler import CompileResult
from platformdirs import user_cache_path

LOG = logging.getLogger(__package__)
DIGEST = 32

_telling: list[Callable[[str], object]] = [LOG.info]
_told: set[str] = set()


@contextmanager
def telling(say: Callable[[str], object]) -> Iterator[None]:
    """Says what is compiled by `say` instead of the log."""
    _telling.append(say)
    try:
        yield
    finally:
        _telling.pop()


def folder() -> Path:
    """Where compiled kernels are; NUMBA_CACHE_DIR moves it."""
    told = os.environ.get("NUMBA_CACHE_DIR")
    return Path(told) if told else user_cache_path("mergekit-omp", appauthor=False) / "kernels"


@cache
def sources() -> bytes:
    """What all kernels are: a change to one changes the code of those that call it."""
    texts = (file.read_bytes() for file in sorted(Path(__file__).parents[1].rglob("*.py")))
    return b"\0".join(text for text in texts if b"kernel" in text)


class KernelCache(_Cache):
    """The compiled forms of one function, a file for each set of argument types."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.enabled = True

    @property
    def cache_path(self) -> str:
        return str(folder())

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def flush(self) -> None:
        """Numba asks for this where a function is compiled anew on purpose: nothing is kept."""
        self.enabled = False

    def load_overload(self, sig: object, target_context: Any) -> CompileResult | None:
        target_context.refresh()
        try:
            found = self._file(sig, target_context.codegen()).read_bytes() if self.enabled else b""
        except OSError:
            found = b""
        payload = found[DIGEST:]
        if found and found[:DIGEST] == _digest(payload):
            return CompileResult._rebuild(target_context, *pickle.loads(payload))
        _once(f"compiling, once: kernels, for {folder()}", _telling[-1])
        return None

    def save_overload(self, sig: object, data: CompileResult) -> None:
        if not self.enabled or data.library.has_dynamic_globals:
            return
        payload = dumps(data._reduce())
        try:
            _write(self._file(sig, data.codegen), _digest(payload) + payload)
        except OSError as error:
            _once(
                f"compiled kernels cannot be kept in {folder()} ({error.strerror or error}): every"
                " process will compile its own; NUMBA_CACHE_DIR may name another folder",
                LOG.warning,
            )

    def _file(self, sig: object, codegen: Any) -> Path:
        code = self.function.__code__
        versions = sys.version, numba.__version__, llvmlite.__version__
        what = self.function.__module__, code.co_code, repr(code.co_consts), sig
        key = repr((versions, what, codegen.magic_tuple())).encode()
        return folder() / f"{self.function.__name__}-{_digest(key + sources()).hex()}.kernel"


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def _write(path: Path, content: bytes) -> None:
    """All or nothing, also where two processes write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _once(message: str, say: Callable[[str], object]) -> None:
    if message not in _told:
        _told.add(message)
        say(message)
