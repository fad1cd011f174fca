"""A report as one HTML file that needs nothing else: styles and plots are in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import jinja2
import markupsafe
import numpy as np

from mergekit_omp.record.sentences import restoring
from mergekit_omp.report import wording
from mergekit_omp.report.contents import Report, Section
from mergekit_omp.report.figures import histogram, require_matplotlib, scatter

GENERATOR = "mergekit-omp report"


@dataclass(frozen=True)
class _Plot:
    svg: markupsafe.Markup
    caption: str


@dataclass(frozen=True, eq=False)
class _View:
    """A section, with what only its appearance on the page needs."""

    id: str
    title: str
    section: Section
    plots: tuple[_Plot, ...]


def render(package: str, values: Mapping[str, Any]) -> str:
    """The template `page.html.jinja` of a package, in the style that all pages have.

    It also has `number`, `weight` and `percent` of `wording`, and `generator`.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    style = (files("mergekit_omp.report") / "page.css").read_text(encoding="utf-8")
    environment.globals |= {
        "number": wording.number,
        "weight": wording.weight,
        "percent": wording.percent,
        "generator": GENERATOR,
        "style": markupsafe.Markup(style),
    }
    template = (files(package) / "page.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(**values)


def page(report: Report) -> str:
    """The HTML. TransplantError where matplotlib is not installed."""
    require_matplotlib()
    views = [
        _View(f"tensor-{i}", title, section, _plots(f"t{i}", report, section))
        for i, (title, section) in enumerate(wording.shown(report))
    ]
    shown_counts = [
        (key, word)
        for key, word in wording.COUNTS
        if any(section.entry["counts"][key] for section in report.sections)
    ]
    record = wording.told(report.record)
    searched = [s for s in report.sections if s.outliers is not None]
    checked = [
        _with_bars(view)
        for view in sorted(views, key=lambda view: view.section.entry["part"] != "head")
        if view.section.held_out is not None
    ]
    values = {
        "words": wording,
        "parts": wording.parts(report),
        "report": {**_fields(report), "record": record},
        "lead": wording.lead(report),
        "restoring": restoring(report.record, report.name),
        "views": [_with_bars(view) for view in views],
        "checked": checked,
        "models": [model for model in record["models"] if model["tensors"]],
        "why_unchecked": wording.why_unchecked(report),
        "several": len({section.model for section in report.sections}) > 1,
        "counts": shown_counts,
        "fits": wording.fits_of(report.sections),
        "searched": bool(searched),
        "found": any(section.outliers for section in searched),
    }
    return render("mergekit_omp.report", values)


def _fields(report: Report) -> dict[str, Any]:
    return {
        "name": report.name,
        "config": report.config,
        "notes": report.notes,
        "compared": report.compared,
    }


def _plots(name: str, report: Report, section: Section) -> tuple[_Plot, ...]:
    plots = []
    fit, check = section.fit, section.held_out
    if fit is not None and len(section.fits):
        groups = {"approximated": section.fits}
        svg = histogram(f"{name}-fit", groups, fit.title, fit.limits)
        plots.append((svg, fit.meaning))
    caption = wording.norms_caption(report, section)
    label = "norm of the row" if section.is_matrix else "absolute value"
    plots.append((histogram(f"{name}-norms", section.norms, label), caption))
    if check is not None:
        told = wording.fit_and_score(check)
        if told is not None and fit is not None and check.fits is not None:
            labels = fit.title, "held-out score"
            plots.append((scatter(f"{name}-check", check.fits, check.scores, labels), told))
        elif np.ptp(check.scores):
            groups = {"hidden": check.scores}
            svg = histogram(f"{name}-check", groups, "held-out score")
            plots.append((svg, wording.SCORES))
    return tuple(_Plot(markupsafe.Markup(svg), caption) for svg, caption in plots)


def _with_bars(view: _View) -> dict[str, Any]:
    """The view for the template: outcomes with their parameters in words and the width of their
    bar."""
    section = {name: getattr(view.section, name) for name in view.section.__dataclass_fields__}
    section |= {"fit": view.section.fit, "parts": view.section.parts}
    check = view.section.held_out
    if check is not None:
        section["held_out"] = {
            "size": wording.hidden(check),
            "refused": check.refused,
            "outcomes": [
                {
                    **asdict(outcome),
                    "told": wording.parameters(outcome.parameters),
                    "bar": round(100 * min(max(outcome.score, 0.0), 1.0)),
                }
                for outcome in check.outcomes
            ],
        }
    return {"id": view.id, "title": view.title, "plots": view.plots, "section": section}
