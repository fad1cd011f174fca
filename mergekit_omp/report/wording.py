"""The words of a report, for HTML and for Markdown: numbers, names and whole sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mergekit_omp.approximation import APPROXIMATIONS
from mergekit_omp.approximation.fit import PREDICTED_ERROR, Fit
from mergekit_omp.outside.counts import counted
from mergekit_omp.record.sentences import origin_of
from mergekit_omp.report.contents import Report, Section
from mergekit_omp.report.held_out import HeldOut

PARTS = {"input": "Input embedding", "head": "Output head", "head_bias": "Bias of the head"}
TIED = "Input embedding and output head"
"""What the one matrix of a tied model is called."""

COUNTS = (
    ("copied", "copied"),
    ("approximated", "approximated"),
    ("without_donor_row", "mean row, no donor has one"),
    ("overridden", "set in the config"),
    ("padding", "padding"),
)
SCORE = (
    "Some tokens that both vocabularies have were treated as if they were missing, and their "
    "approximated rows compared with the rows that the model really has. They were chosen to "
    "resemble the missing tokens, common ones more often, as in text."
)
SCORE_MEANING = (
    "The score is the mean cosine between the approximated and the true row, both as offsets from "
    "the mean row: 1 is the true row, 0 says nothing about the token. Softmax ignores what all "
    "rows of a head share, so the score in the head (or in a matrix that is both) tells best how "
    "methods rank in loss; the score in the input says less."
)
NOT_SEARCHED = "Not searched for: that takes the models of the merge, and a method that reads the donor's rows."
OUTLIERS = (
    "Approximated rows that lie at least 1.5 times as far from the mean row as 99.9% of the "
    "model's own rows do, although their rows in the donor are ordinary. A donor can be built so "
    "that a token does nothing there and much here: look at these tokens before you trust the "
    "output."
)
NO_OUTLIERS = "No approximated row is large here and ordinary in the donor."
NORMS = (
    "Norms of rows. They need not agree: what is predicted is shorter than what it predicts, and "
    "rows of the norms of the model's own lose no less."
)
NORMS_MERGED = (
    " Approximated and copied rows are those of the output, in which all models are merged."
)
NORMS_OF_BIAS = "Values of the bias."
SCORES = "Score of each hidden token: 1 is the true row, 0 says nothing."


def fit_and_score(check: HeldOut) -> str | None:
    """Whether the figure of fit tells good rows from bad ones, as the hidden tokens show it."""
    fit, tells = APPROXIMATIONS[check.own.method].fit, check.fit_tells
    if fit is None or tells is None:
        return None
    sentences = [
        f"Each point is a hidden token. The rank correlation of {fit.title} and score is "
        f"{number(tells, 2)}: 1 if a better figure were always a better row, 0 if it said nothing."
    ]
    if fit is PREDICTED_ERROR and check.fits is not None:
        expected = float(np.sqrt(np.square(check.fits).mean()))
        sentences.append(
            f"An error of {number(expected, 2)} was predicted (root mean square), and one of "
            f"{number(check.error, 2)} was found."
        )
    return " ".join(sentences)


def size(output: dict[str, Any]) -> str:
    """The output's tokens and rows."""
    return ", ".join(
        counted(output[key], noun, separate=True)
        for key, noun in (("tokens", "token"), ("vocab_size", "row"))
    )


def hidden(check: HeldOut) -> str:
    """How many tokens were hidden, and how many were left to approximate from."""
    return (
        f"{counted(check.hidden, 'token', separate=True)} hidden, "
        f"{counted(check.anchors, 'anchor', separate=True)} left"
    )


def worst_of(fit: Fit) -> str:
    """The heading of a table of the worst rows."""
    if fit.is_count:
        return f"Most {fit.title}"
    return f"{'Highest' if fit.largest_is_worst else 'Lowest'} {fit.title}"


def fit_of(fit: Fit, value: float | None) -> str:
    """A token's figure of fit."""
    return number(None if value is None else int(value) if fit.is_count else value)


def fits_of(sections: Sequence[Section]) -> list[Fit]:
    """The figures of fit of a report's methods, each once."""
    return list({fit.key: fit for section in sections if (fit := section.fit)}.values())


def no_fit(entry: dict[str, Any]) -> str | None:
    """Why a method has no figure of fit, where it has none."""
    if APPROXIMATIONS[entry["method"]].fit is not None or not entry["counts"]["approximated"]:
        return None
    return (
        f"{entry['method']} does not look at single tokens: there is no fit to show, and no row is "
        "better known than another."
    )


def number(value: float | int | None, digits: int = 3) -> str:
    """1,234 or 0.123; '–' for nothing."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if value != value:
        return "not finite"
    if abs(value) >= 1e5:
        return f"{value:.1e}"
    # Adding 0 turns the -0.0 of a small negative number into 0.0.
    rounded = round(value, digits if abs(value) < 100 else 1) + 0.0
    return f"{rounded:,.{digits if abs(value) < 100 else 1}f}".replace("-", "−")


def parameters(values: Mapping[str, Any]) -> str:
    """`k: 16, center: true`, or nothing."""
    return ", ".join(f"{name}: {_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    if value is None:
        return "auto"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def weight(value: float) -> str:
    """A signed weight: +0.44 or −0.38."""
    return f"{value:+.2f}".replace("-", "−")


def percent(share: float) -> str:
    """12%; 99.95% where rounding would say all."""
    return f"{100 * share:.0f}%" if share <= 0.99 or share == 1 else f"{100 * share:.2f}%"


def lead(report: Report) -> str:
    """What was done and how well, in two or three sentences."""
    if not report.sections:
        return "The merge aligned no vocabulary tensor."
    first = {section.model: section for section in reversed(report.sections)}
    sentences = [f"{counted(report.sections[0].entry['counts']['rows'], 'row', separate=True)}."]
    for model in reversed(first):
        counts = first[model].entry["counts"]
        said = f"{number(counts['copied'])} copied from {model}"
        if counts["approximated"]:
            entry = first[model].entry
            said += (
                f", {number(counts['approximated'])} approximated by {entry['method']}"
                f"{origin_of([entry])}"
            )
        sentences.append(f"{said}.")
    if len(first) == 1:
        sentences = [f"{sentences[0][:-1]}: {sentences[1]}"]
    scores = [
        f"{section.held_out.own.score:.2f} in the {_short(title)}"
        for title, section in zip(titles(report), report.sections, strict=True)
        if section.held_out is not None and section.model == report.sections[0].model
    ]
    if scores:
        whose = f" of {report.sections[0].model}" if len(first) > 1 else ""
        sentences.append(
            f"On hidden tokens{whose} it scores {' and '.join(scores)} (1 is the true row)."
        )
    if report.record.get("healing"):
        sentences.append(
            "Since then mergekit-omp heal has trained rows of this model: figures of fit and scores "
            "on hidden tokens are those of the merge, norms are today's."
        )
    found = sum(len(section.outliers or ()) for section in report.sections)
    if found:
        sentences.append(
            f"{found} outlier rows deserve a look."
            if found > 1
            else "One outlier row deserves a look."
        )
    return " ".join(sentences)


def _short(title: str) -> str:
    return title[0].lower() + title[1:]


def parts(report: Report) -> dict[str, str]:
    """What the report calls each part of a model."""
    return {**PARTS, "input": TIED} if report.tied else PARTS


def titles(report: Report) -> list[str]:
    """A heading for each tensor: its part, and its name where two have one part."""
    found = Counter((section.model, section.entry["part"]) for section in report.sections)
    return [
        parts(report)[section.entry["part"]]
        + (f" {section.entry['tensor']}" if found[section.model, section.entry["part"]] > 1 else "")
        for section in report.sections
    ]


def shown(report: Report) -> list[tuple[str, Section]]:
    """The tensors that have a section of their own, with its heading: of others all is copied."""
    headed = zip(titles(report), report.sections, strict=True)
    return [
        (title, section) for title, section in headed if section.entry["counts"]["approximated"]
    ]


def norms_caption(report: Report, section: Section) -> str:
    """What the norms of a tensor's rows mean."""
    if not section.is_matrix:
        return NORMS_OF_BIAS
    several = len({section.model for section in report.sections}) > 1
    return f"{NORMS}{NORMS_MERGED if several else ''}"


def told(record: dict[str, Any]) -> dict[str, Any]:
    """The record, with each tensor's parameters in words under `told`: k, and those not at
    defaults."""
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
    return parameters(
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
    if any("hypernetwork" in section.entry for section in report.sections):
        return "a hypernetwork reads the very row that would be hidden from it."
    return (
        "it was not asked for, too few tokens are shared, or no missing token is like a shared one."
    )
