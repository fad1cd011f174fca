"""The model card's section on the transplant, put into the card that mergekit writes."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from mergekit.card import maybe_link_hf

from mergekit_omp.outside.counts import counted
from mergekit_omp.outside.display import in_markdown, markdown_block
from mergekit_omp.record.record import FILE_NAME
from mergekit_omp.record.sentences import PARTS, fit_of, origin_of, tokenizer_of
from mergekit_omp.record.shown_names import ShownNames

_CONFIGURATION = "\n### Configuration\n"
_INCLUDED = "The following models were included in the merge:"
_COLUMNS = (
    ("copied", "copied"),
    ("by_role", "of these by role"),
    ("approximated", "approximated"),
    ("without_donor_row", "without a donor's row"),
    ("overridden", "set by `tokens:`"),
    ("padding", "padding"),
)
_ALWAYS = ("copied", "by_role", "approximated")


@dataclass(frozen=True)
class CardModel:
    """A model that the output is made of, as the front matter of a card names it."""

    name: str
    licence: str | None
    """Where it is known."""


def with_transplant(
    card: str, record: dict[str, Any], models: Sequence[CardModel], shown: ShownNames
) -> str:
    """mergekit's card with what a transplant adds to it, before its configuration.

    `models` are the base, the donor and the others. Local paths are cut as `shown` says.
    """
    # Before the Markdown is made, in which the paths would be spelt with escapes.
    record = shown.of(record)
    models = [CardModel(shown(model.name), model.licence) for model in models]
    link = functools.partial(_linked, local=shown.local)
    before, found, after = card.partition(_CONFIGURATION)
    opening, metadata, text = before.split("---\n", 2)
    if text.rstrip().endswith(_INCLUDED):
        # mergekit leaves the base out of the list, and so the list empty.
        text = f"{text.rstrip()}\n* {link(record['base_model'])}"
    fields = yaml.safe_load(metadata)
    fields["base_model"] = [model.name for model in models]
    fields["tags"] = [*fields["tags"], "tokenizer-transplant", record["approximation"]]
    licences = {model.licence for model in models if model.licence}
    if licences:
        fields["license"] = licences.pop() if len(licences) == 1 else "other"
    told = section(record, link) + _licences(models, link)
    whole = f"{opening}---\n{yaml.dump(fields)}\n---\n{text.rstrip()}\n\n{told}{found}"
    return shown(whole + _fenced(after))


def _fenced(text: str) -> str:
    """mergekit's text with the config, in a fence that the config cannot end."""
    before, opening, rest = text.partition("```yaml\n")
    config, closing, after = rest.rpartition("\n```")
    return f"{before}{markdown_block(config, 'yaml')}{after}" if opening and closing else text


def _licences(models: Sequence[CardModel], link: Callable[[str], str]) -> str:
    """A sentence where the licences differ, or only some are known."""
    if len({model.licence for model in models}) < 2:
        return ""
    told = [f"{link(model.name)}: {model.licence or 'not known'}" for model in models]
    return f"\nLicences: {'; '.join(told)}.\n"


def section(record: dict[str, Any], link: Callable[[str], str]) -> str:
    """The transplant's facts in Markdown; `link` spells the name of a model."""
    output = record["output"]
    source = output["tokenizer_source"]
    whose = tokenizer_of(record) if source in ("union", "base") else link(source)
    tensors = [(m["model"], tensor) for m in record["models"] for tensor in m["tensors"]]
    shown = [
        (key, title)
        for key, title in _COLUMNS
        if key in _ALWAYS or any(tensor["counts"][key] for _, tensor in tensors)
    ]
    fits = {fit[0].key: fit[0] for _, tensor in tensors if (fit := fit_of(tensor))}
    titles = [title for _, title in shown] + [f"mean {fit.title}" for fit in fits.values()]
    lines = [
        "### Tokenizer Transplant",
        "",
        f"The tokenizer is that of {whose}: {counted(output['tokens'], 'token')} in "
        f"{counted(output['vocab_size'], 'row')}. {_approximation(record, link)}",
        "",
        "| " + " | ".join(["model", "tensor", *titles]) + " |",
        "|---|---|" + "---:|" * len(titles),
    ]
    for model, tensor in tensors:
        cells = [
            link(model),
            PARTS[tensor["part"]],
            *(str(tensor["counts"][key]) for key, _ in shown),
            *(f"{tensor[key]['mean']:.3f}" if tensor.get(key) else "-" for key in fits),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    meanings = "".join(f"{_capital(fit.title)}: {fit.meaning} " for fit in fits.values())
    lines += ["", f"{meanings}[`{FILE_NAME}`]({FILE_NAME}) tells more."]
    if record["warnings"]:
        lines += ["", "Warnings of the merge:", ""]
        lines += [f"* {in_markdown(warning)}" for warning in record["warnings"]]
    return "\n".join(lines) + "\n"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _approximation(record: dict[str, Any], link: Callable[[str], str]) -> str:
    tensors = [tensor for model in record["models"] for tensor in model["tensors"]]
    if not any(tensor["counts"]["approximated"] for tensor in tensors):
        return "Every token has a row of each model's own. No training was involved."
    keep = (
        "Tokens that a model has under the same bytes or in the same role keep its rows"
        if all(tensor["parameters"].get("copy_shared", True) for tensor in tensors)
        else "Control tokens that a model has in the same role or by name keep its rows"
    )
    training = "of the models " if any("hypernetwork" in tensor for tensor in tensors) else ""
    return (
        f"{keep}; the others were approximated by `{record['approximation']}`{origin_of(tensors, link)} "
        f"(mergekit-omp {record['versions']['mergekit-omp']}). No training {training}was involved."
    )


def _linked(model: str, local: frozenset[str]) -> str:
    """A link for a name on the Hub; a path that exists is not looked up there."""
    path = model.partition("+")[0]
    plain = path in local or os.path.exists(path) or path != model or in_markdown(model) != model
    return in_markdown(model) if plain else maybe_link_hf(model)
