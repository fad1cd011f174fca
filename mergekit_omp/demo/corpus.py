"""Text that every CPython carries: its manual, docstrings, code, and some arithmetic.

The demo needs text to train on and text to test on, without a download. Sources are read in a
fixed order, so one Python version always gives the same corpus. Held-out documents are spread
over all sources, and a paragraph that one of them contains is kept out of training.
"""

from __future__ import annotations

import ast
import itertools
import random
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

_TESTS_AND_DATA = frozenset(
    {"__pycache__", "encodings", "ensurepip", "idle_test", "idlelib", "lib2to3", "pydoc_data"}
    | {"test", "tests", "turtledemo", "site-packages", "dist-packages"}
)
"""Folders of the standard library whose files are tests, tables, or not the library's own."""

_LONG_PARAGRAPH = 40
"""Characters from which a repeated paragraph counts as copied text, not as a common phrase."""


class TextKind(str, Enum):
    """What sort of text a document is."""

    PROSE = "prose"
    CODE = "code"
    SUMS = "sums"


@dataclass(frozen=True)
class Document:
    """One text, with where it comes from."""

    name: str
    kind: TextKind
    text: str


@dataclass(frozen=True)
class CorpusSpec:
    """How much of the standard library to read.

    Every `keep_every`-th source is read. Each `code_every`-th module gives its code, the others
    their docstrings. Sources are cut into documents of about `document_characters`, and every
    `held_out_every`-th document of a kind is held out.
    """

    keep_every: int = 1
    code_every: int = 12
    held_out_every: int = 40
    sums_documents: int = 224
    document_characters: int = 2400
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("keep_every", "code_every", "held_out_every", "document_characters"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: write a number of at least 1")
        if self.held_out_every < 2:
            raise ValueError("held_out_every is 1: nothing would be left to train on")


@dataclass(frozen=True)
class Corpus:
    """Training and held-out documents that share no long paragraph."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]


def standard_library_corpus(spec: CorpusSpec | None = None) -> Corpus:
    """Reads the corpus from the running Python: the same on every machine with this version."""
    spec = spec or CorpusSpec()
    train: list[Document] = []
    held_out: list[Document] = []
    for kind, sources in (
        (TextKind.PROSE, itertools.chain(_topics(spec), _docstrings(spec))),
        (TextKind.CODE, _code(spec)),
        (TextKind.SUMS, _sums(spec)),
    ):
        documents = list(_in_parts(sources, kind, spec.document_characters))
        # From the middle, so that a handful of documents still gives a held-out one.
        middle = min(spec.held_out_every, len(documents)) // 2
        for i, document in enumerate(documents):
            (held_out if i % spec.held_out_every == middle else train).append(document)
    seen: set[str] = set()
    # Held-out text goes first: what it contains is then gone from training.
    held_out = _without_repeats(held_out, seen)
    return Corpus(held_out=tuple(held_out), train=tuple(_without_repeats(train, seen)))


def _topics(spec: CorpusSpec) -> Iterator[tuple[str, str]]:
    """The language reference that `help('topic')` prints."""
    from pydoc_data.topics import topics

    for name in sorted(topics)[:: spec.keep_every]:
        yield f"topic/{name}", topics[name]


def _module_files() -> list[Path]:
    """The standard library's Python files, tests and data tables apart, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    files: list[Path] = []
    for name in sorted(sys.stdlib_module_names - _TESTS_AND_DATA):
        if (module := root / f"{name}.py").is_file():
            files.append(module)
        elif (package := root / name).is_dir():
            files += [
                file
                for file in sorted(package.rglob("*.py"))
                if not _TESTS_AND_DATA.intersection(file.relative_to(root).parts)
            ]
    return files


def _modules(*, code: bool, spec: CorpusSpec) -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    for i, file in enumerate(_module_files()[:: spec.keep_every]):
        if (i % spec.code_every == 0) == code:
            yield file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")


def _docstrings(spec: CorpusSpec) -> Iterator[tuple[str, str]]:
    for name, source in _modules(code=False, spec=spec):
        found = [
            docstring
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and (docstring := ast.get_docstring(node))
        ]
        if found:
            yield f"docstrings/{name}", "\n\n".join(found)


def _code(spec: CorpusSpec) -> Iterator[tuple[str, str]]:
    for name, source in _modules(code=True, spec=spec):
        if source.strip():
            yield f"code/{name}", source


def _sums(spec: CorpusSpec) -> Iterator[tuple[str, str]]:
    """Pages of additions, subtractions and counting, so that digits matter."""
    draw = random.Random(spec.seed)
    for page in range(0, spec.sums_documents, spec.keep_every):
        lines = []
        for _ in range(12):
            a, b = (draw.randrange(10 ** draw.randint(1, 4)) for _ in range(2))
            step = draw.choice((1, 2, 5, 10, 25, 100))
            lines += [
                f"{a} + {b} = {a + b}",
                f"{a + b} - {b} = {a}",
                "Counting: " + ", ".join(str(a + i * step) for i in range(8)) + ".",
            ]
        yield f"sums/{page}", "\n".join(lines)


def _without_repeats(documents: Sequence[Document], seen: set[str]) -> list[Document]:
    """Drops long paragraphs that are in `seen`, and adds those that stay to it."""
    kept = []
    for document in documents:
        paragraphs = []
        for paragraph in re.split(r"\n\s*\n", document.text.strip()):
            key = " ".join(paragraph.split())
            if len(key) >= _LONG_PARAGRAPH and key in seen:
                continue
            seen.add(key)
            paragraphs.append(paragraph.rstrip())
        if paragraphs:
            kept.append(Document(document.name, document.kind, "\n\n".join(paragraphs)))
    return kept


def _in_parts(
    sources: Iterable[tuple[str, str]], kind: TextKind, characters: int
) -> Iterator[Document]:
    """Cuts long sources at paragraph ends into documents of about `characters`."""
    for name, source in sources:
        parts: list[str] = []
        for paragraph in source.split("\n\n"):
            if parts and len(parts[-1]) + len(paragraph) < characters:
                parts[-1] += "\n\n" + paragraph
            else:
                parts.append(paragraph)
        for i, text in enumerate(parts):
            yield Document(f"{name}#{i}", kind, text)
