"""What the tests of `mergekit-omp inspect` share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def facts(inspected: Any) -> Callable[..., dict[str, Any]]:
    """The JSON that the command prints for a config that it accepts."""

    def run(config: dict[str, Any], *options: str) -> dict[str, Any]:
        done = inspected(config, "--json", *options)
        assert done.status == 0, done.text
        return json.loads(done.text[done.text.index("{") :])

    return run
