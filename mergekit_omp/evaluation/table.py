"""The result of an evaluation in lines for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from typing import Any

from mergekit_omp.outside.columns import Columns, fitted, shortened
from mergekit_omp.outside.counts import counted

WIDTH = 80
_NAME = 19
_HEAD = ("bits/byte", "95% interval", "shared", "approx.", "top-1 as base")


def rendered(result: dict[str, Any]) -> str:
    """A table of the models and a sentence for every pair."""
    text, settings = result["text"], result["settings"]
    head = (
        f"{counted(text['documents'], 'document')}, {counted(text['bytes'], 'byte')}, read in "
        f"windows of {counted(settings['context'], 'token')}"
    )
    names = {model["model"]: _label(model["model"]) for model in result["models"]}
    width = max(len(name) for name in [*names.values(), "model"])
    columns = Columns(f"<{width + 2}", ">9", "^20", ">6", ">9", ">15")
    titles = columns.line("model", *_HEAD)
    lines = [head, "", titles, "-" * len(titles)]
    for model in result["models"]:
        share = model["agreement"]
        base = model["model"] == result["base"]
        cells = (
            f"{model['bits_per_byte']:.4f}",
            _interval(model["interval"]),
            _of(model["shared"]),
            _of(model["approximated"]),
            "base"
            if base
            else "-"
            if not share or share["top1"] is None
            else f"{share['top1']:.1%}",
        )
        lines.append(columns.line(names[model["model"]], *cells))
    pairs = _worth_telling(result)
    if pairs:
        lines.append("")
    for pair in pairs:
        lines += textwrap.wrap(
            _sentence(pair, names), WIDTH, subsequent_indent="  ", break_long_words=False
        )
    return "\n".join(lines)


def rendered_tasks(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """lm-evaluation-harness's results, task by task."""
    lines = []
    asked = dict.fromkeys(
        (task, metric)
        for found in results.values()
        for task, values in found.items()
        for metric in values
        if not metric.partition(",")[0].endswith("_stderr")
    )
    for task, metric in asked:
        name, _, variant = metric.partition(",")
        label = name if variant == "none" else f"{name} ({variant})"
        for model, found in results.items():
            value = found.get(task, {}).get(metric)
            error = found.get(task, {}).get(f"{name}_stderr,{variant}")
            spread = f" +- {error:.4f}" if isinstance(error, float) else ""
            shown = f"{value:.4f}{spread}" if isinstance(value, (int, float)) else str(value)
            lines.append((task, label, shown, _label(model)))
    head = ("task", "metric", "value", "model")
    return "\n".join(fitted([head, *lines]))


def _worth_telling(result: dict[str, Any]) -> list[dict[str, Any]]:
    """All pairs of up to three models; of more models each and the next in rank."""
    ranked = sorted(result["models"], key=lambda model: model["bits_per_byte"])
    rank = {model["model"]: i for i, model in enumerate(ranked)}
    pairs = [
        (*sorted((rank[pair["model"]], rank[pair["minus"]])), pair)
        for pair in result["differences"]
    ]
    kept = [pair for pair in pairs if len(rank) <= 3 or pair[1] - pair[0] == 1]
    return [pair for _, _, pair in sorted(kept, key=lambda found: found[:2])]


def _label(name: str) -> str:
    return shortened(name, _NAME)


def _interval(found: list[float] | None) -> str:
    return "-" if found is None else f"{found[0]:.4f}-{found[1]:.4f}"


def _of(part: dict[str, Any] | None) -> str:
    return "-" if not part or part["bits_per_byte"] is None else f"{part['bits_per_byte']:.3f}"


def _sentence(pair: dict[str, Any], names: dict[str, str]) -> str:
    first, second = names[pair["model"]], names[pair["minus"]]
    difference, between = pair["bits_per_byte"], pair["interval"]
    if difference > 0:
        first, second, difference = second, first, -difference
        between = between and [-between[1], -between[0]]
    amount = f"{-difference:.4f} bits per byte"
    if between is None:
        return f"{first} is better than {second} by {amount} (no interval)"
    low, high = -between[1], -between[0]
    spread = f"95% interval {low:.4f} to {high:.4f}"
    if pair["clear"]:
        return f"{first} beats {second} by {amount} ({spread})"
    return f"{first} and {second} do not differ clearly: {amount} ({spread})"
