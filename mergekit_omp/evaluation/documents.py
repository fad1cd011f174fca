"""Texts to evaluate on, cut into documents, which are scored one by one and resampled."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mergekit_omp.outside.faults import reason

SPLITS = ("auto", "file", "paragraph", "line")
FEW_FILES = 10
"""With fewer files than this, "auto" cuts them into documents."""
DOCUMENT_BYTES = 2000
"""What a document made of paragraphs has at least, so that most of it has context."""
_BLANK_LINES = re.compile(r"(?:\r?\n[ \t]*)+\r?\n(?=\S)")


@dataclass(frozen=True)
class Documents:
    """What was read, and how it was cut."""

    documents: tuple[str, ...]
    split: str
    """One of `SPLITS`, "auto" resolved."""


def files_in(paths: Sequence[Path]) -> list[Path]:
    """The files that are named, and those ending in .txt or .jsonl of folders, by name.

    Raises ValueError for a folder without any.
    """
    found: list[Path] = []
    for path in paths:
        files = [path]
        if path.is_dir():
            files = sorted(f for f in path.iterdir() if f.suffix in (".txt", ".jsonl"))
            if not files:
                raise ValueError(f"{path} holds no .txt or .jsonl file: name a folder that does")
        found += files
    return found


def read_documents(paths: Sequence[Path], split: str = "auto") -> Documents:
    """The documents of text files; of `.jsonl` files each line's "text" is one.

    "file": a file is a document. "paragraph": files are cut at blank lines, into documents of at
    least `DOCUMENT_BYTES` bytes. "line": a line that is not blank is a document. "auto":
    "file" from `FEW_FILES` files on, else "paragraph". Every byte is in one document, except for
    the ends of lines and blank lines that "line" drops.

    Raises ValueError, naming the file, for what is no text in UTF-8 or not JSON lines with a text, and
    where there is no text at all.
    """
    if split == "auto":
        split = "file" if len(paths) >= FEW_FILES else "paragraph"
    documents: list[str] = []
    for path in paths:
        text = _read(path)
        if path.suffix == ".jsonl":
            documents += _json_lines(path, text)
        elif split == "paragraph":
            documents += _paragraphs(text)
        elif split == "line":
            documents += [line for line in text.splitlines() if line.strip()]
        else:
            documents.append(text)
    documents = [document for document in documents if document]
    if not any(document.strip() for document in documents):
        names = ", ".join(str(path) for path in paths)
        raise ValueError(f"there is no text in {names}: name files that hold some")
    return Documents(tuple(documents), split)


def _read(path: Path) -> str:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start}): convert it, for example with iconv"
        ) from error
    # One may stand in a text; UTF-16 has one beside every Latin letter.
    if text.count("\0") > len(text) / 10:
        raise ValueError(
            f"{path} holds as many bytes of zero as no text does: it may be UTF-16, to be converted "
            "for example with iconv, or no text at all"
        )
    return text


def _paragraphs(text: str) -> list[str]:
    documents, start = [], 0
    for gap in _BLANK_LINES.finditer(text):
        if len(text[start : gap.end()].encode()) >= DOCUMENT_BYTES:
            documents.append(text[start : gap.end()])
            start = gap.end()
    rest = text[start:]
    # A short last document is joined to the one before.
    if documents and len(rest.encode()) < DOCUMENT_BYTES:
        documents[-1] += rest
    else:
        documents.append(rest)
    return documents


def _json_lines(path: Path, text: str) -> list[str]:
    documents = []
    # Not splitlines: a JSON text may hold U+2028 and others that it takes for ends of lines.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}, is not JSON ({reason(error)})") from error
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise ValueError(
                f'{path}, line {number}, has no "text": write lines such as {{"text": "..."}}'
            )
        documents.append(_spelled(path, number, entry["text"]))
    return documents


def _spelled(path: Path, number: int, text: str) -> str:
    """Text that UTF-8 can spell: JSON can also write half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{path}, line {number}, has half of a surrogate pair "
            f"(\\u{ord(text[error.start]):04x}), which is no character: take it out"
        ) from error
    return text
