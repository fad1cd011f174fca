"""The text on which comparisons are made."""

from __future__ import annotations

from pathlib import Path

import pytest

TEXT = "\n\n".join(
    f"The {word} of the house said: return {word}[{number}] if it is not None, else {number}.\n"
    "A class, a function — naïve, and 12345 more; über alles."
    for number, word in enumerate(["list", "module", "object", "string", "value"])
)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file
