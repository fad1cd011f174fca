"""Text to train on and text to test on, of three kinds: prose, code and arithmetic.

CPython's manual, docstrings, code and generated sums (`mergekit_omp.demo.corpus`), and what a
folder of .txt files adds: files whose name begins with a kind are of that kind, all others are
prose. `NAME_heldout.txt` is held out; where `NAME.txt` has no such file, its last twentieth is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mergekit_omp.demo.corpus import CorpusSpec, standard_library_corpus

KINDS = ("prose", "code", "arithmetic")

_HELD_OUT_MARK = "_heldout"


@dataclass(frozen=True)
class Document:
    """One text and its kind."""

    kind: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """What models are trained on, by kind, and the documents that none of them sees."""

    train: Mapping[str, tuple[str, ...]]
    held_out: tuple[Document, ...]

    def mixed(self, shares: Mapping[str, float]) -> list[str]:
        """The training texts of a model: of each kind this share, spread over all of it."""
        return [text for kind in KINDS for text in spread(self.train[kind], shares.get(kind, 0.0))]


def read_texts(
    folder: Path | None, spec: CorpusSpec, held_out_bytes: int, document_characters: int
) -> Corpus:
    """The corpus, with about `held_out_bytes` held out of each kind.

    Raises:
        FileNotFoundError: `folder` holds no .txt file.
    """
    train: dict[str, list[str]] = {kind: [] for kind in KINDS}
    held_out: dict[str, list[str]] = {kind: [] for kind in KINDS}
    library = standard_library_corpus(spec)
    for documents, texts in ((library.train, train), (library.held_out, held_out)):
        for document in documents:
            kind = "arithmetic" if document.kind.value == "sums" else document.kind.value
            texts[kind].append(document.text)
    for kind, learn, test in _files(folder, document_characters) if folder else ():
        train[kind] += learn
        held_out[kind] += test
    return Corpus(
        train={kind: tuple(texts) for kind, texts in train.items()},
        held_out=tuple(
            Document(kind, text) for kind in KINDS for text in _some(held_out[kind], held_out_bytes)
        ),
    )


def spread(texts: Sequence[str], share: float) -> list[str]:
    """`share` of the texts (all, where it is 1 or more), at even distances."""
    count = min(len(texts), round(share * len(texts)))
    return [texts[i * len(texts) // count] for i in range(count)]


def _some(texts: Sequence[str], size: int) -> list[str]:
    """Texts of about `size` bytes together, at even distances."""
    return spread(texts, size / max(1, sum(len(text.encode()) for text in texts)))


def _files(folder: Path, characters: int) -> Iterator[tuple[str, list[str], list[str]]]:
    """Kind, training texts and held-out texts of each file in `folder`."""
    files = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    if not files:
        raise FileNotFoundError(f"{folder} holds no .txt file")
    for name, path in files.items():
        if name.endswith(_HELD_OUT_MARK):
            continue
        kind = next((kind for kind in KINDS if name.startswith(kind)), "prose")
        texts = list(_parts(path.read_text(encoding="utf-8"), characters))
        if test := files.get(name + _HELD_OUT_MARK):
            yield kind, texts, list(_parts(test.read_text(encoding="utf-8"), characters))
        else:
            cut = len(texts) - max(1, len(texts) // 20)
            yield kind, texts[:cut], texts[cut:]


def _parts(text: str, characters: int) -> Iterator[str]:
    """The text in documents of about `characters`, cut where paragraphs end."""
    part: list[str] = []
    for paragraph in _paragraphs(text):
        if part and sum(map(len, part)) + len(paragraph) > characters:
            yield "\n\n".join(part)
            part = []
        part.append(paragraph)
    if part:
        yield "\n\n".join(part)


def _paragraphs(text: str) -> Iterable[str]:
    return (stripped for part in re.split(r"\n\s*\n", text) if (stripped := part.strip()))
