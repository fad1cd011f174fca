"""The model card's section on the transplant, put into the card that mergekit writes."""

from __future__ import annotations

import os
from typing import Any

import yaml
from mergekit.card import maybe_link_hf

from mergekit_omp.record.record import FILE_NAME
from mergekit_omp.record.sentences import PARTS, listed, tokenizer_of

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
    fitted = any(tensor.get("relative_residual") for _, tensor in tensors)
    titles = [title for _, title in shown] + ["mean relative residual"] * fitted
    lines = [
        "### Tokenizer Transplant",
        "",
        f"The tokenizer is that of {whose}: {output['tokens']} tokens in {output['vocab_size']} "
        f"rows. {_approximation(record)} No training was involved.",
        "",
        "| " + " | ".join(["model", "tensor", *titles]) + " |",
        "|---|---|" + "---:|" * len(titles),
    ]
    for model, tensor in tensors:
        residual = tensor.get("relative_residual")
        cells = [
            _linked(model),
            PARTS[tensor["part"]],
            *(str(tensor["counts"][key]) for key, _ in shown),
            *([f"{residual['mean']:.3f}" if residual else "-"] if fitted else []),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    meaning = (
        "A relative residual of 0 means that a row of the donor is written exactly in terms of "
        "tokens that both models have. "
    )
    lines += ["", f"{meaning if fitted else ''}[`{FILE_NAME}`]({FILE_NAME}) tells more."]
    if record["warnings"]:
        lines += ["", "Warnings of the merge:", ""]
        # Tokens such as <s> would be taken for HTML.
        plain = [" ".join(warning.split()).replace("<", "\\<") for warning in record["warnings"]]
        lines += [f"* {warning}" for warning in plain]
    return "\n".join(lines) + "\n"


def _approximation(record: dict[str, Any]) -> str:
    tensors = [tensor for model in record["models"] for tensor in model["tensors"]]
    if not any(tensor["counts"]["approximated"] for tensor in tensors):
        return "Every token has a row of each model's own."
    # A method that reads no donor rows takes nothing from a donor.
    donors = dict.fromkeys(d["model"] for t in tensors for d in t["donors"] if d["tensor"])
    origin = f" from {listed(_linked(donor) for donor in donors)}" if donors else ""
    return (
        "Tokens that a model has under the same bytes or in the same role keep its rows; the "
        f"others were approximated by `{record['approximation']}`{origin} "
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
