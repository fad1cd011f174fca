"""More text to train on, from packages that the `test` extra installs: docstrings, and some code.

The versions are those of constraints.txt. Long paragraphs that occur twice, or in text that is held
out, are left out.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGES = ("matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "torch")
CODE_EVERY = 8
"""Each so-manieth file gives its code, the others their docstrings."""
_LONG_PARAGRAPH = 40
"""Characters from which a paragraph is told apart from a common phrase."""


def installed_text(held_out: Sequence[str], characters: int) -> dict[str, list[str]]:
    """Prose and code of `PACKAGES`, in documents of about so many characters."""
    seen = {_key(paragraph) for text in held_out for paragraph in text.split("\n\n")}
    found: dict[str, list[str]] = {"prose": [], "code": []}
    for i, file in enumerate(_files()):
        try:
            source = file.read_text(encoding="utf-8")
            kind = "prose" if i % CODE_EVERY else "code"
            text = _docstrings(source) if kind == "prose" else source
        except (UnicodeDecodeError, SyntaxError):
            # Some packages carry sources in other encodings, or templates of sources.
            continue
        found[kind] += _documents(text, seen, characters)
    return found


def _files() -> Iterator[Path]:
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"{name} is not installed: install the `test` extra")
        root = Path(spec.origin).parent
        for file in sorted(root.rglob("*.py")):
            if not {"test", "tests", "testing"}.intersection(file.relative_to(root).parts):
                yield file


def _docstrings(source: str) -> str:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
    return "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def _documents(text: str, seen: set[str], characters: int) -> Iterator[str]:
    part: list[str] = []
    for paragraph in text.split("\n\n"):
        key = _key(paragraph)
        if not key or (len(key) >= _LONG_PARAGRAPH and key in seen):
            continue
        seen.add(key)
        if part and sum(map(len, part)) + len(paragraph) > characters:
            yield "\n\n".join(part)
            part = []
        part.append(paragraph.rstrip())
    if part:
        yield "\n\n".join(part)


def _key(paragraph: str) -> str:
    return " ".join(paragraph.split())
