"""Sentences that a report makes of its numbers, in HTML and in Markdown alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mergekit_omp.approximation import APPROXIMATIONS
from mergekit_omp.report import wording
from mergekit_omp.report.contents import Report, Section


def lead(report: Report) -> str:
    """What was done and how well, in two or three sentences."""
    if not report.sections:
        return "The merge aligned no vocabulary tensor."
    entry = report.sections[0].entry
    counts = entry["counts"]
    donors = ", ".join(dict.fromkeys(donor["model"] for donor in entry["donors"])) or "no donor"
    sentences = [
        f"{wording.number(counts['copied'])} of {wording.number(counts['rows'])} rows were copied "
        f"from {report.sections[0].model}; {wording.number(counts['approximated'])} were "
        f"approximated by {entry['method']} from {donors}."
    ]
    scores = [
        f"{section.held_out.own.score:.2f} in the {_short(title)}"
        for title, section in zip(titles(report.sections), report.sections, strict=True)
        if section.held_out is not None and section.model == report.sections[0].model
    ]
    if scores:
        sentences.append(f"On hidden tokens it scores {' and '.join(scores)} (1 is the true row).")
    found = sum(len(section.outliers or ()) for section in report.sections)
    if found:
        sentences.append(f"{found} outlier row(s) deserve a look.")
    return " ".join(sentences)


def _short(title: str) -> str:
    return title[0].lower() + title[1:]


def titles(sections: Sequence[Section]) -> list[str]:
    """A heading for each tensor: its part, and its name where two have one part."""
    parts = Counter((section.model, section.entry["part"]) for section in sections)
    return [
        wording.PARTS[section.entry["part"]]
        + (f" {section.entry['tensor']}" if parts[section.model, section.entry["part"]] > 1 else "")
        for section in sections
    ]


def told(record: dict[str, Any]) -> dict[str, Any]:
    """The record, each tensor's entry with its parameters in words: k, and what is no default."""
    return {
        **record,
        "models": [
            {
                **model,
                "tensors": [{**entry, "told": _parameters(entry)} for entry in model["tensors"]],
            }
            for model in record["models"]
        ],
    }


def _parameters(entry: dict[str, Any]) -> str:
    fields = APPROXIMATIONS[entry["method"]].model_fields
    return wording.parameters(
        {
            name: value
            for name, value in entry["parameters"].items()
            if name == "k" or name not in fields or value != fields[name].default
        }
    )


def why_unchecked(report: Report) -> str:
    """Why there is no held-out check."""
    if report.notes:
        return "the models are not at hand."
    if not any(section.entry["counts"]["approximated"] for section in report.sections):
        return "no row was approximated."
    return "it was not asked for, or too few tokens are shared."
