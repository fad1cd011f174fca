"""What a tokenizer makes of text: segmentation as a continuation, and which tokens it can emit.

A token that the tokenizer never emits is untrained. Emission is
proved by example: a token is emitted if it is found in the encoding of some text.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Bool
from tokenizers import Tokenizer

from mergekit_omp.outside.faults import of_library
from mergekit_omp.vocabulary.components import without_dummy_prefix
from mergekit_omp.vocabulary.content import BYTE_PIECE, is_byte_level, spelled

BATCH = 1 << 10
"""Texts cut at a time: an encoding takes about a kilobyte, and many lists at once keep the garbage
collector busy."""
JOINED = 200
"""Tokens to a text in the first test, which spares most of the cost of an encoding."""
NEIGHBOURS = (
    "a",
    "A",
    "1",
    "!",
    "}",
    "'",
    " ",
    "\n",
    "中",
    "s",
    "S",
    "t",
    "re",
    "RE",
    "ve",
    "ꙮ",
    "⁋",
)
"""Text put before, after, or around a token that is not found alone: what patterns split at.

The last two are a letter and a mark so rare that no merge takes them.
"""
SEPARATOR = " a "
"""Put between such texts, so that they do not influence each other."""
SAMPLES = 64
"""Characters tried for each leading byte that only a byte piece can spell."""
LEADING_BYTES = (
    *(range(start, start + 0x40) for start in range(0x80, 0x800, 0x40)),
    *(range(max(start, 0x800), start + 0x1000) for start in range(0, 0xD000, 0x1000)),
    range(0xD000, 0xD800),
    *(range(start, start + 0x1000) for start in range(0xE000, 0x10000, 0x1000)),
    *(range(max(start, 0x10000), start + 0x40000, 0x101) for start in range(0, 0x100000, 0x40000)),
    range(0x100000, 0x110000, 0x101),
)
"""The characters whose UTF-8 starts with each byte from 0xC2 on, of the last five a part."""

_CANNOT_READ = (
    "A tokenizer of this merge cannot read some text",
    "Give its model an unknown token, or name another tokenizer.",
)


class Segmenter:
    """A tokenizer's behaviour on text, as a continuation, without control and added tokens."""

    def __init__(
        self,
        backend: Tokenizer,
        strings: list[str | None],
        content: list[bytes | None],
        added: Bool[np.ndarray, "size"],
    ) -> None:
        self._tokenizer = without_dummy_prefix(backend)
        self._byte_level = is_byte_level(backend)
        self._strings = strings
        self._content = content
        self._added = added
        model = backend.model
        prefix = getattr(model, "continuing_subword_prefix", None)
        self._continuation = prefix if type(model).__name__ == "WordPiece" else None
        self._affixed = bool(prefix or getattr(model, "end_of_word_suffix", None))

    def check(self, name: str) -> None:
        """Refuse a tokenizer that fails on text. TransplantError, naming the model."""
        with of_library(
            f"The tokenizer of {name} cannot read all text",
            "Its model may lack its unknown token: add that to its tokenizer.json, or name another.",
        ):
            self._tokenizer.encode("".join(NEIGHBOURS), add_special_tokens=False)

    def _encode(self, texts: Iterable[str]) -> list[list[int]]:
        texts = list(texts)
        ids: list[list[int]] = []
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            with of_library(*_CANNOT_READ):
                encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            ids.extend(encoding.ids for encoding in encodings)
        return ids

    def segment(self, pieces: Sequence[bytes]) -> list[list[int]]:
        """See `Vocabulary.segment`."""
        parts = (pieces[start : start + BATCH] for start in range(0, len(pieces), BATCH))
        return [ids for part in parts for ids in self._segment(part)]

    def _segment(self, pieces: Sequence[bytes]) -> list[list[int]]:
        segmented: list[list[int] | None] = [None] * len(pieces)
        texts: dict[int, str] = {}
        for i, piece in enumerate(pieces):
            try:
                texts[i] = piece.decode()
            except UnicodeDecodeError:
                segmented[i] = self._segment_bytes(piece)
        begun = self._continued(texts) if self._continuation else {}
        rest = iter(self._encode(word for _, words in begun.values() for word in words))
        for i, (ids, words) in begun.items():
            del texts[i]
            segmented[i] = [*ids, *(j for _ in words for j in next(rest))]
        for (i, text), ids in zip(texts.items(), self._encode(texts.values()), strict=True):
            segmented[i] = self._without_markup(text, ids)
        content = self._content
        # The unknown token stands in for what cannot be spelled.
        return [[i for i in ids or [] if content[i] is not None] for ids in segmented]

    def _without_markup(self, text: str, ids: list[int]) -> list[int]:
        """The segmentation without control tokens that the model itself knows by their spelling.

        SentencePiece keeps <s> among its pieces, so its model may find it in plain text.
        """
        for i in ids:
            markup = self._strings[i] or ""
            if self._content[i] is None and len(markup) > 1 and markup in text:
                cut = text.index(markup) + 1
                halves = (text[:cut], text[cut:])
                return [
                    j
                    for half, found in zip(halves, self._encode(halves), strict=True)
                    for j in self._without_markup(half, found)
                ]
        return ids

    def _continued(self, texts: Mapping[int, str]) -> dict[int, tuple[list[int], list[str]]]:
        """WordPiece where a text goes on with a word: the pieces of that, of which the first is a
        continuation, and the words that follow."""
        known = self._continuations
        begun: dict[int, tuple[list[int], list[str]]] = {}
        normalised = dict(
            zip(texts, self._normalised(f"a{text}" for text in texts.values()), strict=True)
        )
        if self._words(["a a"]) == [["a", "a"]]:
            normalised = {i: text for i, text in normalised.items() if not text.startswith("a ")}
        for i, words in zip(normalised, self._words(normalised.values()), strict=True):
            if not words or words[0] == "a" or not words[0].startswith("a"):
                continue
            ids: list[int] = []
            rest = words[0][1:]
            while rest:
                length = len(rest)
                while length and rest[:length] not in known:
                    length -= 1
                if not length:
                    break
                ids.append(known[rest[:length]])
                rest = rest[length:]
            if not rest:
                begun[i] = ids, words[1:]
        return begun

    @cached_property
    def _continuations(self) -> dict[str, int]:
        """The pieces that go on with a word, without what marks them, and their ids."""
        prefix = self._continuation or ""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        return {s.removeprefix(prefix): i for s, i in vocabulary.items() if s.startswith(prefix)}

    def _normalised(self, texts: Iterable[str]) -> list[str]:
        normalizer = self._tokenizer.normalizer  # each look makes an object anew
        with of_library(*_CANNOT_READ):
            return [*texts] if normalizer is None else [*map(normalizer.normalize_str, texts)]

    def _words(self, texts: Iterable[str]) -> list[list[str]]:
        """The pre-tokens of each text, which is normalised."""
        cutter = self._tokenizer.pre_tokenizer
        with of_library(*_CANNOT_READ):
            if cutter is None:
                return [[text] for text in texts]
            return [[word for word, _ in cutter.pre_tokenize_str(text)] for text in texts]

    def _segment_bytes(self, piece: bytes) -> list[int]:
        """Bytes that are not text, by the vocabulary's byte pieces."""
        if self._byte_level:
            return self._ids_by_model(spelled(piece))
        ids: list[int] = []
        text = ""
        for character in [*piece.decode(errors="surrogateescape"), None]:
            if character is not None and not "\udc80" <= character <= "\udcff":
                text += character
                continue
            ids += self._encode([text])[0] if text else []
            text = ""
            if character is not None:
                found = self._tokenizer.token_to_id(f"<0x{ord(character) - 0xDC00:02X}>")
                ids += [] if found is None else [found]
        return ids

    @cached_property
    def emitted(self) -> Bool[np.ndarray, "size"]:
        """Whether each ordinary token is ever produced from text; False for all others."""
        emitted = self._added.copy()
        texts: dict[int, str] = {}
        fragments: list[int] = []
        for i, data in enumerate(self._content):
            if data is None:
                continue
            try:
                texts[i] = data.decode()
            except UnicodeDecodeError:
                fragments.append(i)

        def find(candidates: Iterable[str]) -> None:
            for ids in self._encode(candidates):
                emitted[ids] = True

        runs = list(texts.values())
        find("\n".join(runs[start : start + JOINED]) for start in range(0, len(runs), JOINED))
        find(text for i, text in texts.items() if not emitted[i])
        find(_in_contexts(text) for i, text in texts.items() if not emitted[i])
        if self._affixed:
            for i, text in texts.items():
                emitted[i] |= self._continues_words(i, text)
        if self._byte_level:
            for i in fragments:
                emitted[i] = self._occurs(i)
        else:
            find(self._unspelled_characters({text for text in runs if len(text) == 1}))
        emitted[[i for i, data in enumerate(self._content) if data is None]] = False
        return emitted

    def _continues_words(self, i: int, text: str) -> bool:
        """Whether a piece that is only found next to another piece can stand in a word."""
        if self._continuation and not (self._strings[i] or "").startswith(self._continuation):
            return False
        return self._words(self._normalised([f"a{text}"])) == [[f"a{text}"]]

    def _occurs(self, i: int) -> bool:
        """Whether a fragment of UTF-8 is one token, and part of some text."""
        data = self._content[i] or b""
        start = 0
        while start < len(data) and start < 3 and data[start] & 0xC0 == 0x80:
            start += 1
        try:
            codecs.getincrementaldecoder("utf-8")().decode(data[start:])
        except UnicodeDecodeError:
            return False
        return self._ids_by_model(self._strings[i] or "") == [i]

    def _ids_by_model(self, text: str) -> list[int]:
        """What the model alone makes of a text, without what comes before it."""
        with of_library(*_CANNOT_READ):
            return [token.id for token in self._tokenizer.model.tokenize(text)]

    def _unspelled_characters(self, spelled_alone: set[str]) -> list[str]:
        """For each leading byte of UTF-8 some characters that no token spells alone."""
        if not any(BYTE_PIECE.fullmatch(string) for string in self._strings if string):
            return []
        # These two bytes of private use run through all continuation bytes.
        characters = [chr(point) for point in (*range(0x80), *range(0xF0000, 0xF1040, 0x41))]
        for points in LEADING_BYTES:
            unspelled = [c for c in map(chr, points) if c not in spelled_alone]
            characters += unspelled[:: max(1, len(unspelled) // SAMPLES)]
        return characters


def _in_contexts(text: str) -> str:
    """The text next to each of the neighbours."""
    return SEPARATOR.join([context for n in NEIGHBOURS for context in (n + text, text + n)])
