"""Tokens as a reader can tell them apart: nothing invisible, nothing that turns a line around."""

from __future__ import annotations

_SIGNS = {"\n": "\\n", "\t": "\\t", "\r": "\\r", " ": "␣", "\\": "\\\\"}
_LONGEST = 40


def shown(token: bytes | str) -> str:
    """A token's text: spaces as ␣; control and formatting characters and bad bytes escaped."""
    text = token.decode("utf-8", "backslashreplace") if isinstance(token, bytes) else token
    broken = isinstance(token, bytes) and not _is_text(token)
    signs = {**_SIGNS, "\\": "\\"} if broken else _SIGNS
    written = "".join(signs.get(c) or (c if c.isprintable() else _escaped(c)) for c in text)
    return written if len(written) <= _LONGEST else f"{written[: _LONGEST - 1]}…"


def _is_text(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


def _escaped(character: str) -> str:
    point = ord(character)
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
