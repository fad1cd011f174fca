"""A report as Markdown: the tables of the page, and figures in place of its plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mergekit_omp.approximation.fit import PARTS
from mergekit_omp.outside.display import as_markdown_code as _code
from mergekit_omp.outside.display import in_markdown as _plain
from mergekit_omp.outside.display import markdown_block
from mergekit_omp.record.sentences import restoring
from mergekit_omp.report import wording
from mergekit_omp.report.contents import Report, Section, TokenFacts, quantiles
from mergekit_omp.report.wording import lead, number, shown, told, why_unchecked

_TEXTS = {"made of", *(parts.title for parts in PARTS)}
"""Columns that hold no numbers."""
_MARK = "<!-- mergekit-omp report -->"


def markdown_text(report: Report) -> str:
    """The whole report."""
    headed = shown(report)
    several = len({section.model for section in report.sections}) > 1
    if several:
        headed = [(f"{title}, {section.model}", section) for title, section in headed]
    headed = [(_plain(title), section) for title, section in headed]
    blocks = [
        _MARK,
        f"# {_plain(report.name)}: tokenizer transplant",
        _plain(lead(report)),
        *_done(report),
        "## Held-out check",
        *_checks(report, headed),
        "## Outlier rows",
        *_outliers(headed),
    ]
    for title, section in headed:
        blocks += [f"## {title}", *_section(report, section)]
    blocks.append("## Config and versions")
    if report.config:
        blocks.append(markdown_block(report.config, "yaml"))
    versions = report.record["versions"].items()
    blocks.append(", ".join(_plain(f"{name} {version}") for name, version in versions))
    return "\n\n".join(blocks) + "\n"


def _done(report: Report) -> list[str]:
    record = told(report.record)
    output = record["output"]
    blocks = [
        "## What was done",
        f"- merge method: {_code(record['merge_method'])}\n"
        f"- tokenizer of: {_plain(output['tokenizer_source'])}\n"
        f"- output: {wording.size(output)}",
    ]
    fits = wording.fits_of(report.sections)
    rows = [
        [
            _plain(model["model"]),
            _code(entry["tensor"]),
            _plain(f"{entry['method']} {entry['told']}"),
            number(entry["counts"]["rows"]),
            *(number(entry["counts"][key]) for key, _ in wording.COUNTS),
            *(number((entry.get(fit.key) or {}).get("mean")) for fit in fits),
        ]
        for model in record["models"]
        for entry in model["tensors"]
    ]
    if rows:
        counts = [word for _, word in wording.COUNTS]
        means = [f"mean {fit.title}" for fit in fits]
        head = ["model", "tensor", "method", "rows", *counts, *means]
        blocks += [_table(head, rows, left=3)]
    blocks += [f"{fit.title}: {fit.meaning}" for fit in fits]
    if found := restoring(record, report.name):
        blocks.append(f"{_plain(found[0])}: {_code(found[1])}")
    for heading, lines in (
        ("Warnings of the merge", record["warnings"]),
        ("Not in this report", report.notes),
    ):
        if lines:
            blocks += [f"### {heading}", "\n".join(f"- {_plain(line)}" for line in lines)]
    return blocks


def _checks(report: Report, headed: Sequence[tuple[str, Section]]) -> list[str]:
    if all(section.held_out is None for _, section in headed):
        return [f"Not made: {why_unchecked(report)}"]
    blocks = [wording.SCORE, wording.SCORE_MEANING]
    # The head comes first: its score predicts the loss best.
    for title, section in sorted(headed, key=lambda one: one[1].entry["part"] != "head"):
        check = section.held_out
        if check is None:
            continue
        rows = [
            [
                f"{outcome.method} {wording.parameters(outcome.parameters)}".strip()
                + (" (this merge)" if outcome.recorded else ""),
                number(outcome.score, 2),
                number(outcome.cosine, 2),
                number(outcome.norm_ratio, 2),
                number(outcome.error, 2),
            ]
            for outcome in check.outcomes
        ]
        blocks += [
            f"### {title}",
            f"{wording.hidden(check)}.",
            _table(["method", "score", "cosine", "norm ratio", "squared error"], rows),
            *filter(None, [wording.fit_and_score(check)]),
            *(f"{name}: {_plain(reason)}." for name, reason in check.refused.items()),
        ]
    return blocks


def _outliers(headed: Sequence[tuple[str, Section]]) -> list[str]:
    searched = [(title, s) for title, s in headed if s.outliers is not None]
    if not searched:
        return [wording.NOT_SEARCHED]
    blocks = [wording.OUTLIERS]
    for title, section in searched:
        rows = [
            [
                _code(outlier.token.text),
                str(outlier.token.id),
                number(outlier.out_times, 1),
                wording.percent(outlier.donor_share),
                _parts(outlier.token),
            ]
            for outlier in section.outliers or ()
        ]
        if rows:
            head = ["token", "id", "times the limit", "donor's rows nearer to the mean", "made of"]
            blocks += [f"### {title}", _table(head, rows)]
    if not any(section.outliers for _, section in searched):
        blocks.append(f"None found. {wording.NO_OUTLIERS}")
    return blocks


def _section(report: Report, section: Section) -> list[str]:
    fit, parts = section.fit, section.parts
    groups = {f"norm, {group}": values for group, values in section.norms.items()}
    if fit is not None:
        groups[fit.title] = section.fits
    rows = []
    for label, values in groups.items():
        figures = quantiles(values)
        if figures is not None:
            rows.append([label, number(len(values)), *(number(v) for v in figures.values())])
    blocks = [
        f"{_code(section.entry['tensor'])}, approximated by {section.entry['method']}.",
        *section.notes,
        *filter(None, [wording.no_fit(section.entry)]),
        _table(["", "rows", "5%", "median", "95%", "largest"], rows),
        wording.norms_caption(report, section),
        *([parts.meaning] if parts is not None and section.worst else []),
    ]
    for heading, tokens in (
        (wording.worst_of(fit) if fit is not None else "", section.worst),
        ("Largest norms", section.largest),
    ):
        if tokens:
            lines = [
                [
                    _code(t.text),
                    str(t.id),
                    *([wording.fit_of(fit, t.fit)] if fit is not None else []),
                    number(t.norm),
                    *([_parts(t)] if parts is not None else []),
                ]
                for t in tokens
            ]
            head = [
                *("token", "id"),
                *([fit.title] if fit is not None else []),
                "norm",
                *([parts.title] if parts is not None else []),
            ]
            blocks += [f"### {heading}", _table(head, lines)]
    return blocks


def _parts(token: TokenFacts) -> str:
    told = [f"{_code(part.text)} {wording.weight(part.weight)}" for part in token.parts]
    return ", ".join(told) or "–"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A pipe table: the first `left` columns to the left, words and numbers after it."""
    marks = ["---" if i < left or name in _TEXTS else "---:" for i, name in enumerate(head)]
    lines = [head, marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
