"""The sentences of a comparison, for the terminal and for the page alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mergekit_omp.comparison.candidates import ZERO


def ranked(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of all candidates, the best first; the base is not among them."""
    candidates: list[dict[str, Any]] = result["models"][1:]
    return sorted(candidates, key=lambda figures: float(figures["bits_per_byte"]))


def conclusion(result: Mapping[str, Any]) -> list[str]:
    """Which candidate is best, which are not told apart from it, and what the swap costs."""
    best, *others = ranked(result)
    name, apart = best["model"], result["not_told_apart"]
    sentences = []
    if not others:
        sentences.append(f"{name} has {_bits(best['bits_per_byte'])} bits per byte.")
    elif not apart:
        second = others[0]["model"]
        sentences.append(
            f"{name} is best: {_bits(best['bits_per_byte'])} bits per byte, "
            f"{_less(result, name, second)} than {second}, which is next."
        )
    else:
        sentences.append(
            f"{name} has the fewest bits per byte, {_bits(best['bits_per_byte'])}, but this text "
            f"does not tell it apart from {_listed(apart)}{_of_next(result, name, apart)}. "
            + _remedy(result)
        )
    sentences.append(_cost(result, best))
    return sentences


def behind(
    result: Mapping[str, Any], better: str, worse: str
) -> tuple[float, tuple[float, float] | None]:
    """How many more bits per byte `worse` has, and the interval of that where there is one."""
    for pair in result["differences"]:
        if {pair["model"], pair["minus"]} == {better, worse}:
            sign = 1 if pair["model"] == worse else -1
            ends = pair["interval"]
            if ends is None:
                return sign * pair["bits_per_byte"], None
            low, high = sorted(sign * end for end in ends)
            return sign * pair["bits_per_byte"], (low, high)
    raise KeyError(worse)


def above(result: Mapping[str, Any], name: str) -> str:
    """The interval of a candidate's difference from the best, for a table."""
    if name == result["best"]:
        return "best"
    amount, ends = behind(result, result["best"], name)
    return f"+{amount:.3f}" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def duration(seconds: float | None) -> str:
    """0.4 s, 12 s or 3.1 min."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def size(count: int | None) -> str:
    """12 MB or 3.4 GB; < 1 MB."""
    if count is None:
        return "-"
    if count < 1e6:
        return "< 1 MB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def _bits(value: float) -> str:
    return f"{value:.4f}"


def _less(result: Mapping[str, Any], better: str, worse: str) -> str:
    amount, ends = behind(result, better, worse)
    return f"{amount:.4f} less{_interval(ends)}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f" (95% interval {ends[0]:.4f} to {ends[1]:.4f})"


def _of_next(result: Mapping[str, Any], best: str, apart: Sequence[str]) -> str:
    amount, ends = behind(result, best, apart[0])
    if ends is None:
        return ""
    return f", which {'has' if len(apart) == 1 else 'comes next with'} {amount:.4f} more{_interval(ends)}"


def _remedy(result: Mapping[str, Any]) -> str:
    if result["text"]["documents"] < 2:
        return "There is one document: cut the text with --split paragraph or line."
    return "More text would tell; until then take whichever suits."


def _cost(result: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    base, name = result["base"], best["model"]
    amount, ends = behind(result, base, name)
    said = f"The base with its own tokenizer has {_bits(result['models'][0]['bits_per_byte'])}"
    if amount <= 0:
        return f"{said}, which is not less."
    said += f", {amount:.4f} less than {name}{_interval(ends)}"
    if name == ZERO or all(one["model"] != ZERO for one in ranked(result)):
        return f"{said}."
    lost, _ = behind(result, base, ZERO)
    won, _ = behind(result, name, ZERO)
    return f"{said}; of the {lost:.4f} that rows of zeros lose, {name} wins {won / lost:.0%} back."


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
