"""What bytes a token stands for, decided from the tokenizer's own decoder.

Follows the decoders of the `tokenizers` library, applied to a token in the middle of a text:
byte-level BPE spells bytes in an alphabet of printable characters (Radford et al. 2019,
`encoder.py`), SentencePiece writes a space as ▁ and a byte as <0xNN>, WordPiece marks what
continues a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders

from mergekit_omp.vocabulary.components import Step, steps

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class _Alphabet(dict[int, int]):
    """A table for `str.translate`, from the byte-level alphabet's characters to bytes."""

    def __missing__(self, character: int) -> int:
        # Past Latin-1, so that encoding fails: the token is not spelled in the alphabet.
        return 0x100


def _byte_level_alphabet() -> _Alphabet:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = _Alphabet((byte, byte) for byte in printable)
    table.update((0x100 + i, byte) for i, byte in enumerate(others))
    return table


ALPHABET = _byte_level_alphabet()
SPELLING = {byte: chr(character) for character, byte in ALPHABET.items()}


def spelled(data: bytes) -> str:
    """Bytes in the byte-level alphabet."""
    return "".join([SPELLING[byte] for byte in data])


def is_byte_level(backend: Tokenizer) -> bool:
    """Whether the tokenizer spells bytes in the byte-level alphabet."""
    return any(step["type"] == "ByteLevel" for step in decoding_steps(backend))


def decoding_steps(backend: Tokenizer) -> list[Step]:
    """The decoder's steps, or where there is no decoder those that undo the other components."""
    found = steps(backend.decoder)
    if found:
        return found
    for step in [*steps(backend.normalizer), *steps(backend.pre_tokenizer)]:
        if step["type"] in ("ByteLevel", "Metaspace"):
            found.append(step)
        elif step["type"] == "Replace" and step["pattern"] == {"String": " "}:
            found.append(
                {"type": "Replace", "pattern": {"String": step["content"]}, "content": " "}
            )
    if type(backend.model).__name__ == "WordPiece":
        prefix = backend.model.continuing_subword_prefix
        found.append({"type": "WordPiece", "prefix": prefix, "cleanup": True})
    if getattr(backend.model, "byte_fallback", False):
        found.append({"type": "ByteFallback"})
    return found


def decode_tokens(backend: Tokenizer, tokens: Sequence[str]) -> list[bytes]:
    """The exact bytes that each token of the model's vocabulary decodes to within a text."""
    texts = list(tokens)
    suffix = getattr(backend.model, "end_of_word_suffix", None)
    if suffix:
        texts = [text[: -len(suffix)] + " " if text.endswith(suffix) else text for text in texts]
    byte_pieces = False
    for step in decoding_steps(backend):
        if step["type"] == "ByteLevel":
            return [_from_alphabet(text) for text in texts]
        if step["type"] == "ByteFallback":
            byte_pieces = True
        change = _text_change(step)
        if change is not None:
            texts = [change(text) for text in texts]
    if not byte_pieces:
        return [text.encode() for text in texts]
    pieces = [BYTE_PIECE.fullmatch(token) if token[:3] == "<0x" else None for token in tokens]
    return [
        bytes([int(piece[1], 16)]) if piece else text.encode()
        for piece, text in zip(pieces, texts, strict=True)
    ]


def _from_alphabet(text: str) -> bytes:
    try:
        return text.translate(ALPHABET).encode("latin-1")
    except UnicodeEncodeError:
        # As the decoder does: a token with any other character stands for itself.
        return text.encode()


def _text_change(step: Step) -> Callable[[str], str] | None:
    """What one decoding step makes of a token, or None where it leaves tokens as they are."""
    kind = step["type"]
    if kind == "Metaspace":
        return lambda text: text.replace(step["replacement"], " ")
    if kind == "BPEDecoder":
        return lambda text: text.replace(step["suffix"], " ")
    if kind == "WordPiece":
        word_pieces: Any = decoders.WordPiece(prefix=step["prefix"], cleanup=step["cleanup"])
        # Behind another token, so that a word-initial one gets its space.
        return lambda text: word_pieces.decode(["a", text])[1:]
    if kind == "Replace":
        pattern, content = step["pattern"], step["content"]
        if "String" in pattern:
            return lambda text: text.replace(pattern["String"], content)
        replace: Any = decoders.Replace(Regex(pattern["Regex"]), content)
        return lambda text: replace.decode([text])
    return None
