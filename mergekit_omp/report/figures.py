"""Plots of a report, as SVG to be put into a page: its CSS colours them, light or dark.

Drawn by matplotlib's object interface, with nothing global and nothing random, so that the same
numbers give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from mergekit_omp.errors import TransplantError

_SIZE = (4.0, 2.9)
"""Inches: three plots side by side on a desk, one below the other on a phone."""
_BINS = 60
_INK, _FIRST, _SECOND, _THIRD = "#010101", "#010102", "#010103", "#010104"
_VARIABLES = {
    _INK: "var(--ink-soft)",
    _FIRST: "var(--approximated)",
    _SECOND: "var(--copied)",
    _THIRD: "var(--own)",
}
"""Colours that matplotlib draws with, and the page's colours that replace them."""
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def require_matplotlib(
    instead: str = "or write the report without plots: --markdown",
) -> None:
    """TransplantError, naming the extra to install, where matplotlib is missing.

    `instead` is what else can be done.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise TransplantError(
            "The plots of a report need matplotlib, which is not installed. Install it with: "
            f"pip install 'mergekit-omp[report]', {instead}."
        ) from error


def histogram(
    name: str,
    groups: Mapping[str, Float[np.ndarray, "some"]],
    label: str,
    limits: tuple[float, float] | None = None,
) -> str:
    """Densities of one to three groups of numbers as outlines over common bins.

    Without `limits` the plot leaves out the 0.2% at either end, lest one row hide the others.
    """
    finite = {group: values[np.isfinite(values)] for group, values in groups.items()}
    finite = {group: values for group, values in finite.items() if len(values)}
    if not finite:
        return ""

    def draw(axes: Any) -> None:
        together = np.concatenate(list(finite.values()))
        low, high = limits or _bulk(together)
        edges = np.linspace(low, high, _BINS + 1)
        for (group, values), colour in zip(finite.items(), (_FIRST, _SECOND, _THIRD), strict=False):
            counts, _ = np.histogram(values, edges)
            share = 100 * counts / len(values)
            filled = colour == _FIRST
            axes.stairs(
                share, edges, color=colour, fill=filled, alpha=0.55 if filled else 1, linewidth=1.3
            )
            axes.plot(
                [],
                [],
                color=colour,
                alpha=0.55 if filled else 1,
                linewidth=5 if filled else 1.3,
                solid_capstyle="butt",
                label=group,
            )
        axes.set_xlim(low, high)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(label)
        axes.set_ylabel("% of rows")
        if len(finite) > 1:
            _legend(axes)

    return _svg(name, draw)


def scatter(
    name: str,
    x: Float[np.ndarray, "points"],
    y: Float[np.ndarray, "points"],
    labels: tuple[str, str],
) -> str:
    """Points, all but the 0.2% at either end of each axis; `labels` are those of the axes."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if not len(x):
        return ""

    def draw(axes: Any) -> None:
        axes.plot(
            x,
            y,
            linestyle="none",
            marker="o",
            markersize=2.8,
            markeredgewidth=0,
            color=_FIRST,
            alpha=0.6,
        )
        axes.set_xlim(_bulk(x))
        axes.set_ylim(_bulk(y))
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])

    return _svg(name, draw)


def intervals(
    name: str,
    values: Mapping[str, tuple[float, tuple[float, float] | None]],
    label: str,
    *,
    standing_out: Collection[str] = (),
    marks: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """A dot for each named value, from top to bottom, with a line from end to end of its interval.

    `standing_out` are drawn in the colour that draws the eye; `marks` are vertical lines.
    """

    def draw(axes: Any) -> None:
        for place, (one, (value, ends)) in enumerate(values.items()):
            colour = _FIRST if one in standing_out else _SECOND
            if ends is not None:
                axes.plot(ends, (place, place), color=colour, linewidth=2.2, alpha=0.55)
            axes.plot([value], [place], color=colour, marker="o", markersize=4.5, linestyle="none")
        for mark, value in marks.items():
            axes.axvline(value, color=_THIRD, linewidth=1, linestyle=(0, (4, 3)), label=mark)
        axes.set_yticks(range(len(values)), list(values))
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.set_xlabel(label)
        if marks:
            _legend(axes)

    return _svg(name, draw, height=0.9 + 0.24 * len(values))


def _legend(axes: Any) -> None:
    """Above the plot, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)


def _bulk(values: Float[np.ndarray, "values"]) -> tuple[float, float]:
    """The range of all but 0.2% at either end, with a margin around it."""
    low, high = (float(q) for q in np.quantile(values, (0.002, 0.998)))
    air = 0.04 * (high - low) or 0.5
    return (0.0 if 0 <= low < 0.3 * high else low - air), high + air


def _svg(name: str, draw: Callable[[Any], None], height: float = _SIZE[1]) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    written = io.StringIO()
    style: Any = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.locator_params(axis="x", nbins=6)
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(written.getvalue(), name)


def _for_page(svg: str, name: str) -> str:
    """The svg element alone, in the page's colours, as wide as its place, with ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[^"]*pt"', "", svg, count=2)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
    names = {one or other for one, other in used}
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in names else "", svg)
    for old in sorted(names):
        svg = svg.replace(f'"{old}"', f'"{name}-{old}"').replace(f"#{old}", f"#{name}-{old}")
    return svg.replace("<svg", '<svg role="img"', 1).strip()
