"""A hypernetwork's vocabulary: how it cuts a token into the base's pieces and pieces of its own.

Ids below the size of the base's vocabulary are the base's own, spelled in the byte-level
alphabet; those above are single bytes and intermediate merges that the base lacks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor

from mergekit_omp.vocabulary.content import ALPHABET, SPELLING, spelled


@dataclass(frozen=True, eq=False)
class Segments:
    """How tokens are cut. Places are those in the list of tokens that was cut."""

    pieces: list[list[int]]
    """The pieces of each token; none for a control token and for one that cannot be spelled."""
    truncated: list[int]
    """Tokens of which pieces were cut off."""
    unspellable: list[int]
    """Tokens of which a piece has no row."""

    @property
    def predicted(self) -> list[int]:
        """Tokens that have pieces."""
        return [i for i, pieces in enumerate(self.pieces) if pieces]

    @property
    def counts(self) -> Float[Tensor, "tokens"]:
        """How many pieces each token has; NaN for those that have none."""
        return torch.tensor([float(len(p)) if p else torch.nan for p in self.pieces])

    @property
    def distinct(self) -> int:
        """How many different pieces there are."""
        return len({piece for pieces in self.pieces for piece in pieces})


class PieceVocabulary:
    """The `tokenizer.json` of a hypernetwork."""

    def __init__(self, text: str, file: str, base_size: int):
        """`text` is the file's content, `file` its name, `base_size` the ids that are the base's.

        Raises ValueError where it cannot be read or lacks a byte.
        """
        tokenizer = _read(text, file)
        self.file = file
        self.base_size = base_size
        self._model = tokenizer.model
        if getattr(self._model, "dropout", None) is not None:
            # Of training; with it a token would be cut at random.
            self._model.dropout = None
        self._strings = {i: s for s, i in tokenizer.get_vocab(with_added_tokens=True).items()}
        known = tokenizer.get_vocab(with_added_tokens=False)
        absent = [byte for byte, character in SPELLING.items() if character not in known]
        if absent:
            listed = ", ".join(f"0x{byte:02X}" for byte in sorted(absent)[:3])
            raise ValueError(
                f"{file}: expected a token for each of the 256 bytes in the byte-level alphabet; "
                f"found none for {len(absent)} of them ({listed}{', ...' * (len(absent) > 3)})"
            )

    def segment(self, tokens: Sequence[bytes | None], longest: int, rows: int) -> Segments:
        """Cut tokens into pieces, `longest` of each at most, with ids below `rows`.

        None stands for a control token, which has no pieces.
        """
        found = Segments([], [], [])
        for place, token in enumerate(tokens):
            pieces = self._pieces(token) if token else []
            if len(pieces) > longest:
                found.truncated.append(place)
                pieces = pieces[:longest]
            if token is not None and (not pieces or max(pieces) >= rows):
                found.unspellable.append(place)
                pieces = []
            found.pieces.append(pieces)
        return found

    def _pieces(self, token: bytes) -> list[int]:
        return [piece.id for piece in self._model.tokenize(spelled(token))]

    def check_base(
        self, strings: Sequence[str | None], content: Sequence[bytes | None], base: str
    ) -> None:
        """Raises ValueError, naming the first token that differs, if the base's ids differ.

        `strings` and `content` are those of the base's ids; without content (a control token, or
        no token) an id is not compared.
        """
        for i, (string, data) in enumerate(
            zip(strings[: self.base_size], content[: self.base_size], strict=True)
        ):
            if data is None:
                continue
            own = self._strings.get(i)
            if own is None or (own != string and _decoded(own) != data):
                raise ValueError(
                    f"{self.file} is not of a hypernetwork for {base}: expected the base's token "
                    f"{string!r} at id {i}; found {'none' if own is None else repr(own)}"
                )


def _read(text: str, file: str) -> Tokenizer:
    try:
        json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file}: expected a tokenizer in JSON; found {error}") from error
    try:
        return Tokenizer.from_str(text)
    except Exception as error:
        # The library has no error of its own for what it cannot read.
        if type(error) is not Exception:
            raise
        raise ValueError(f"{file}: expected a fast tokenizer; found {error}") from error


def _decoded(string: str) -> bytes | None:
    """The bytes that a string in the byte-level alphabet spells; None if it is not in it."""
    try:
        return string.translate(ALPHABET).encode("latin-1")
    except UnicodeEncodeError:
        return None
