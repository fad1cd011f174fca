"""One older transformers for all tests of outputs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from readers import OlderTransformers


@pytest.fixture(scope="session")
def older() -> Iterator[OlderTransformers]:
    """transformers 4.57 in a process of its own."""
    with OlderTransformers() as process:
        yield process
