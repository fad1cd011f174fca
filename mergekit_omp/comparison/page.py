"""The result of a comparison as one HTML file that needs nothing else, in the report's style."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import markupsafe

from mergekit_omp.comparison.wording import above, conclusion, duration, ranked, size
from mergekit_omp.outside.counts import counted
from mergekit_omp.report.figures import intervals, require_matplotlib
from mergekit_omp.report.page import render


def page(result: Mapping[str, Any]) -> str:
    """The HTML. TransplantError where matplotlib is not installed."""
    require_matplotlib()
    base, *candidates = result["models"]
    lines = [
        {
            **figures,
            "is_best": figures["model"] == result["best"],
            "above": above(result, figures["model"]),
            "time": duration(figures["seconds"]),
            "memory": size(figures["peak_bytes"]),
        }
        for figures in ranked(result)
    ]
    values = {
        "title": Path(result["config"]).name,
        "conclusion": conclusion(result),
        "result": result,
        "documents": counted(result["text"]["documents"], "document"),
        "rows": candidates[0],
        "base": base,
        "lines": lines,
        "plot": markupsafe.Markup(_plot(result)),
    }
    return render("mergekit_omp.comparison", values)


def _plot(result: Mapping[str, Any]) -> str:
    base = result["models"][0]
    values = {
        figures["model"]: (figures["bits_per_byte"], _ends(figures["interval"]))
        for figures in ranked(result)
    }
    return intervals(
        "methods",
        values,
        "bits per byte",
        standing_out=[result["best"]],
        marks={"base, own tokenizer": base["bits_per_byte"]},
    )


def _ends(interval: list[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])
