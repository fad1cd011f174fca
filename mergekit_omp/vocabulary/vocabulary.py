"""A model's vocabulary: what each id stands for, as bytes and as roles.

Two vocabularies can be compared only by the bytes that their
tokens decode to, and control tokens only by the part they play.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int8
from tokenizers import Tokenizer

from mergekit_omp.vocabulary.content import decode_tokens
from mergekit_omp.vocabulary.segmentation import Segmenter

ROLES = ("eos", "bos", "unk", "sep", "cls", "mask", "pad")
"""The roles a control token can have, the most telling first."""

MANY_GAPS = 100_000
"""Ids without a token that a vocabulary may have, where it has no more tokens than that."""


class Kind(IntEnum):
    """What an id is."""

    GAP = 0
    """No token has this id."""
    ORDINARY = 1
    """Text: it stands for bytes."""
    CONTROL = 2
    """Never spelled out: a role, or markup such as a chat template's."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """All ids of one tokenizer, from 0 to the largest, gaps included."""

    name: str
    """The model's name, for messages."""
    strings: list[str | None]
    """The tokenizer's own string of each id; None for a gap."""
    content: list[bytes | None]
    """The exact bytes that each id decodes to within a text; None for control tokens and gaps."""
    kinds: Int8[np.ndarray, "size"]
    """The `Kind` of each id."""
    added: Bool[np.ndarray, "size"]
    """Ordinary tokens that the tokenizer finds before its model runs (added, not special)."""
    roles: dict[str, int]
    """The ids of those of bos, eos, unk, sep, pad, cls, mask that exist."""
    segmenter: Segmenter = field(repr=False)
    """The tokenizer's behaviour on text."""

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, name: str) -> Vocabulary:
        """The vocabulary of a transformers tokenizer (`PreTrainedTokenizerBase`).

        Raises ValueError where the tokenizer has no fast form or no tokens, where its ids lie far
        apart, and where it cannot read or decode some text.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ValueError(
                f"The tokenizer of {name} is a {type(tokenizer).__name__}, which has no fast form "
                "(no tokenizer.json) to read bytes from; convert it once with "
                "transformers.convert_slow_tokenizer and save it next to the model."
            )
        _check_ids(backend, name)
        strings = _strings(backend)
        if not strings:
            raise ValueError(
                f"The tokenizer of {name} has no tokens; check that its tokenizer.json is whole."
            )
        size = len(strings)
        roles = _roles(tokenizer, backend)
        added_tokens = backend.get_added_tokens_decoder()
        control = {i for i, token in added_tokens.items() if token.special} | set(roles.values())
        literal = set()
        for i, token in added_tokens.items():
            if backend.model.token_to_id(token.content) is None:
                literal.add(i)
        control -= {
            i for i in roles.values() if i not in literal and _is_borrowed(i, roles, strings)
        }

        kinds = np.full(size, Kind.ORDINARY, dtype=np.int8)
        kinds[[i for i, string in enumerate(strings) if string is None]] = Kind.GAP
        kinds[sorted(control)] = Kind.CONTROL
        added = np.zeros(size, dtype=bool)
        added[sorted(added_tokens.keys() - control)] = True

        content: list[bytes | None] = [None] * size
        ordinary = np.flatnonzero(kinds == Kind.ORDINARY).tolist()
        if not ordinary:
            raise ValueError(
                f"The tokenizer of {name} has control tokens alone, and none that stands for text; "
                "check that its tokenizer.json is whole."
            )
        decoded = decode_tokens(backend, [strings[i] or "" for i in ordinary])
        for i, data in zip(ordinary, decoded, strict=True):
            content[i] = data
        for i in sorted(literal - control):
            content[i] = added_tokens[i].content.encode()
        segmenter = Segmenter(backend, strings, content, added)
        segmenter.check(name)
        return cls(name, strings, content, kinds, added, roles, segmenter)

    @property
    def size(self) -> int:
        """The largest id and one."""
        return len(self.strings)

    @cached_property
    def tokens(self) -> int:
        """How many ids have a token."""
        return int(np.count_nonzero(self.kinds != Kind.GAP))

    @cached_property
    def fingerprint(self) -> str:
        """Equal for vocabularies in which every id means the same."""
        digest = hashlib.blake2b(digest_size=16)
        texts: list[Sequence[bytes | None]] = [
            [
                None if string is None else string.encode("utf-8", "surrogatepass")
                for string in self.strings
            ],
            self.content,
        ]
        for text in texts:
            lengths = np.array([-1 if item is None else len(item) for item in text], dtype="<i8")
            digest.update(lengths.tobytes())
            digest.update(b"".join([item for item in text if item]))
        digest.update(self.kinds.tobytes() + self.added.tobytes())
        digest.update(repr(sorted(self.roles.items())).encode())
        return digest.hexdigest()

    @cached_property
    def representatives(self) -> dict[bytes, int]:
        """The ordinary token of each byte string, where several share it the one to copy from.

        That is the one which the tokenizer emits: an added token, found before the model runs,
        then a token of the model, then those that are never emitted.
        """
        ordinary = np.flatnonzero(self.kinds == Kind.ORDINARY).tolist()
        last = dict(zip([self.content[i] or b"" for i in ordinary], ordinary, strict=True))
        return last | {data: ids[0] for data, ids in self.repetitions.items()}

    @cached_property
    def repetitions(self) -> dict[bytes, list[int]]:
        """The byte strings that several ordinary tokens share; their ids, the one to copy first."""
        first: dict[bytes, int] = {}
        repeated: dict[bytes, list[int]] = {}
        for i, data in enumerate(self.content):
            if data is not None and first.setdefault(data, i) != i:
                repeated.setdefault(data, [first[data]]).append(i)
        for ids in repeated.values():
            emitted = self.emitted(np.array(ids))
            rank = {i: (not self.added[i], not e, i) for i, e in zip(ids, emitted, strict=True)}
            ids.sort(key=rank.__getitem__)
        return repeated

    def emitted(self, ids: Int[np.ndarray, "ids"]) -> Bool[np.ndarray, "ids"]:
        """Whether the tokenizer ever produces each token from text; False but for ordinary ones.

        A token that is never emitted was never trained.
        """
        return self.segmenter.emitted[ids]

    def segment(self, pieces: Sequence[bytes]) -> list[list[int]]:
        """The tokenizer's segmentation of each byte string, read as the continuation of a text.

        Nothing is put before the text and no control token appears. Valid UTF-8 is encoded as
        text, other bytes by the vocabulary's own byte pieces. What the vocabulary cannot spell
        is left out, so a list may be empty.
        """
        return self.segmenter.segment(pieces)


def _check_ids(backend: Tokenizer, name: str) -> None:
    """Refuse ids far beyond the tokens: every id below the largest would be a row of the output."""
    ids = backend.get_vocab(with_added_tokens=True)
    largest = max(ids, key=ids.__getitem__, default="")
    gaps = ids.get(largest, 0) - len(ids)
    if gaps > max(MANY_GAPS, len(ids)):
        raise ValueError(
            f"The tokenizer of {name} has {len(ids)} tokens, but gives {largest!r} the id "
            f"{ids[largest]}: the output would have that many rows. Correct the id in its "
            "tokenizer.json, or name another model."
        )


def _strings(backend: Tokenizer) -> list[str | None]:
    by_string = backend.get_vocab(with_added_tokens=True)
    strings: list[str | None] = [None] * (max(by_string.values(), default=-1) + 1)
    for string, i in by_string.items():
        # Two strings may name one id: the tokenizer says which it uses.
        strings[i] = string if strings[i] is None else backend.id_to_token(i)
    return strings


def _roles(tokenizer: Any, backend: Tokenizer) -> dict[str, int]:
    spelled = tokenizer.special_tokens_map
    ids = {role: backend.token_to_id(str(spelled.get(f"{role}_token"))) for role in ROLES}
    return {role: i for role, i in ids.items() if i is not None and f"{role}_token" in spelled}


def _is_borrowed(i: int, roles: dict[str, int], strings: list[str | None]) -> bool:
    """Whether an ordinary token (such as "!") serves as padding or as the unknown token too.

    It stays text: its row was trained as such.
    """
    if any(role not in ("pad", "unk") for role, other in roles.items() if other == i):
        return False
    word = (strings[i] or "").strip("▁Ġ ")
    if any(name in word.lower() for name in ("pad", "unk")):
        return False
    return len(word) == 1 or word.isalnum()
