"""Strings from models and configs, made safe to show: on a terminal, as JSON, in Markdown.

A token may hold anything: control characters that clear a screen or set its title, marks that
turn the direction of text around, the markup of a page. What cannot be seen is escaped.
"""

from __future__ import annotations

import json
import re
from typing import Any

_MARKUP = re.compile(r"[\\`*\[\]<>#|~&]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown takes for markup; not so an underscore within a word."""


def on_terminal(text: str) -> str:
    """Text in which every character can be seen; only line breaks stay."""
    if text.isprintable():
        return text
    return "\n".join(visible(line) for line in text.split("\n"))


def visible(text: str) -> str:
    """Text of one line in which every character can be seen."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else escaped(c) for c in text)


def escaped(character: str) -> str:
    r"""\x1b, \u202e or \U000e0001."""
    point = ord(character)
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def as_json(content: Any) -> str:
    """JSON in which letters stay letters, and what cannot be seen is escaped."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return re.sub(r"[^\n]+", _json_line, text)


def _json_line(line: re.Match[str]) -> str:
    if line[0].isprintable():
        return line[0]
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line[0])


def in_markdown(text: str) -> str:
    """Text of one line in which nothing is taken for markup."""
    return _MARKUP.sub(lambda found: f"\\{found[0]}", visible(" ".join(text.split())))


def as_markdown_code(text: str) -> str:
    """Text as code in a line or a cell of a table, whatever backticks and bars it holds."""
    text = visible(text)
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", "\\|")


def markdown_block(text: str, language: str) -> str:
    """Text of many lines as a fenced block that it cannot end."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{on_terminal(text).rstrip()}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
