"""The model card's section on the transplant, put into the card that mergekit writes."""

from __future__ import annotations

import os
from typing import Any

import yaml
from mergekit.card import maybe_link_hf

from mergekit_omp.report.facts import PARTS, listed, tokenizer_of
from mergekit_omp.report.record import FILE_NAME

_CONFIGURATION = "\n### Configuration\n"
_COLUMNS = (
    ("copied", "copied"),
    ("by_role", "of these by role"),
    ("approximated", "approximated"),
    ("without_donor_row", "without a donor's row"),
    ("overridden", "set by `tokens:`"),
    ("padding", "padding"),
)
_ALWAYS = ("copied", "by_role", "approximated")


def with_transplant(card: str, record: dict[str, Any]) -> str:
    """mergekit's card with the tags and the section of a transplant, before its configuration."""
    card = _with_tags(card, ["tokenizer-transplant", record["approximation"]])
    before, found, after = card.partition(_CONFIGURATION)
    return f"{before.rstrip()}\n\n{section(record)}{found}{after}"


def section(record: dict[str, Any]) -> str:
    """The transplant's facts in Markdown; local paths stay plain, model names become links."""
    output = record["output"]
    source = output["tokenizer_source"]
    whose = tokenizer_of(record) if source in ("union", "base") else _linked(source)
    tensors = [(m["model"], tensor) for m in record["models"] for tensor in m["tensors"]]
    shown = [
        (key, title)
        for key, title in _COLUMNS
        if key in _ALWAYS or any(tensor["counts"][key] for _, tensor in tensors)
    ]
    lines = [
        "### Tokenizer Transplant",
        "",
        f"The tokenizer is that of {whose}: {output['tokens']} tokens in {output['vocab_size']} "
        f"rows. {_approximation(record)} No training was involved.",
        "",
        "| model | tensor | "
        + " | ".join(title for _, title in shown)
        + " | mean relative residual |",
        "|---|---|" + "---:|" * (len(shown) + 1),
    ]
    for model, tensor in tensors:
        residual = tensor.get("relative_residual")
        cells = [
            _linked(model),
            PARTS[tensor["part"]],
            *(str(tensor["counts"][key]) for key, _ in shown),
            f"{residual['mean']:.3f}" if residual else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "A relative residual of 0 means that a row of the donor is written exactly in terms of "
        f"tokens that both models have. [`{FILE_NAME}`]({FILE_NAME}) tells more.",
    ]
    if record["warnings"]:
        lines += ["", "Warnings of the merge:", ""]
        # Tokens such as <s> would be taken for HTML.
        plain = [" ".join(warning.split()).replace("<", "\\<") for warning in record["warnings"]]
        lines += [f"* {warning}" for warning in plain]
    return "\n".join(lines) + "\n"


def _approximation(record: dict[str, Any]) -> str:
    donors = dict.fromkeys(
        donor["model"]
        for model in record["models"]
        for tensor in model["tensors"]
        for donor in tensor["donors"]
    )
    if not donors:
        return "Every token has a row of each model's own."
    return (
        "Tokens that a model has under the same bytes or in the same role keep its rows; the "
        f"others were approximated by `{record['approximation']}` from "
        f"{listed(_linked(donor) for donor in donors)} "
        f"(mergekit-omp {record['versions']['mergekit-omp']})."
    )


def _linked(model: str) -> str:
    """A link for a name on the Hub; a path that exists is not looked up there."""
    path = model.partition("+")[0]
    return model if os.path.exists(path) or path != model else maybe_link_hf(model)


def _with_tags(card: str, tags: list[str]) -> str:
    opening, metadata, rest = card.split("---\n", 2)
    fields = yaml.safe_load(metadata)
    fields["tags"] = [*fields["tags"], *tags]
    return f"{opening}---\n{yaml.dump(fields)}\n---\n{rest}"
