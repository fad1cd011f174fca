"""What blocks of the missing tokens share and only the interpreter can do, which is one at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import RLock
from typing import Any, TypeVar

T = TypeVar("T")


class Once:
    """Results that the first block to ask makes, while the others wait for it."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}
        self._lock = RLock()

    def of(self, given: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, or gave for an equal `given`."""
        with self._lock:
            if given not in self._found:
                self._found[given] = make()
            found: T = self._found[given]
            return found
