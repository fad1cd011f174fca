"""The result of a comparison in lines for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mergekit_omp.comparison.wording import above, conclusion, duration, ranked, size
from mergekit_omp.outside.columns import Columns
from mergekit_omp.outside.counts import counted

WIDTH = 80
_NAME = 14
_HEAD = ("bits/byte", "above the best", "shared", "approx.", "top-1", "time", "memory")
_COLUMNS = Columns(f"<{_NAME}", ">11", ">16", ">8", ">9", ">7", ">7", ">8")


def as_text(result: Mapping[str, Any]) -> str:
    """The table, what follows from it, and what to write in the config."""
    parts = [
        _head(result),
        _table(result),
        [line for sentence in conclusion(result) for line in _wrapped(sentence)],
        _config(result),
        _left_out(result),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _head(result: Mapping[str, Any]) -> list[str]:
    text, best = result["text"], result["models"][1]
    return _wrapped(
        f"{result['base']} with the tokenizer of {result['tokenizer_source']}: "
        f"{best['approximated_rows']:,} of {best['rows']:,} rows are approximated. "
        f"{counted(text['documents'], 'document')}, {text['bytes']:,} bytes, read in windows of "
        f"{result['settings']['context']} tokens."
    )


def _table(result: Mapping[str, Any]) -> list[str]:
    lines = [_COLUMNS.line("", *_HEAD), "-" * WIDTH]
    base, *_ = result["models"]
    lines += _row("base", (f"{base['bits_per_byte']:.4f}", *"------"))
    for figures in ranked(result):
        share = figures["agreement"]["top1"]
        cells = (
            f"{figures['bits_per_byte']:.4f}",
            above(result, figures["model"]),
            _of(figures["shared"]),
            _of(figures["approximated"]),
            "-" if share is None else f"{100 * share:.0f}%",
            duration(figures["seconds"]),
            size(figures["peak_bytes"]),
        )
        lines += _row(figures["model"], cells)
    lines.append("")
    lines += _wrapped(
        "above the best: 95% interval of the difference, on the same resampled documents. shared, "
        "approx.: bits per byte on tokens with rows of the base's own, and with approximated ones. "
        "top-1: how often the likeliest token is the base's. time, memory: to make the rows."
    )
    return lines


def _of(part: Mapping[str, Any] | None) -> str:
    return "-" if not part or part["bits_per_byte"] is None else f"{part['bits_per_byte']:.3f}"


def _row(name: str, cells: Sequence[str]) -> Iterator[str]:
    """One line; a long name has one of its own."""
    if len(name) > _NAME:
        yield name
        name = ""
    yield _COLUMNS.line(name, *cells)


def _config(result: Mapping[str, Any]) -> list[str]:
    return [
        *_wrapped(f"For {result['best']}, write in {result['config']}:"),
        "",
        *result["yaml"].rstrip().split("\n"),
    ]


def _left_out(result: Mapping[str, Any]) -> list[str]:
    """The methods that were not compared, those with one reason together."""
    reasons: dict[str, list[str]] = {}
    for one in result["left_out"]:
        reasons.setdefault(one["reason"], []).append(one["method"])
    return [
        line
        for reason, methods in reasons.items()
        for line in _wrapped(f"Left out: {', '.join(methods)}. {reason}")
    ]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
