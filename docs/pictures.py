"""Draws the charts of the documentation from the tables in it: `python docs/pictures.py`.

The figures stand once, in the tables that `mergekit-omp demo` and `python -m benchmarks.quality`
print, and the pictures are drawn from these. The test suite checks that they are up to date.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent
ASSETS = DOCS / "assets"

_STYLE = """
    .bars { --ink: var(--md-default-fg-color, #24292f); --soft: var(--md-default-fg-color--light, #57606a); --bar: var(--md-default-fg-color--lighter, #b4bac2); --mark: var(--md-typeset-a-color, #4051b5); }
    @media (prefers-color-scheme: dark) { .bars { --ink: var(--md-default-fg-color, #d7dae0); --soft: var(--md-default-fg-color--light, #9aa1ab); --bar: var(--md-default-fg-color--lighter, #4a505a); --mark: var(--md-typeset-a-color, #8ea2ff); } }
    .bars text { fill: var(--ink); font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 14px; }
    .bars .end { text-anchor: end; }
    .bars .small { fill: var(--soft); font-size: 13px; }
    .bars .other { fill: var(--bar); }
    .bars .best { fill: var(--mark); }
    .bars line { stroke: var(--bar); stroke-width: 1; }
    .bars .other-interval { stroke: var(--soft); stroke-width: 2; }
    .bars .best-interval { stroke: var(--mark); stroke-width: 3; }
    .bars .dot { fill: var(--soft); }
    .bars .ring { fill: none; stroke: var(--soft); stroke-width: 1.5; }
    .bars .axis { fill: none; stroke: var(--bar); }
    .bars .line { fill: none; stroke: var(--soft); stroke-width: 2; }
    .bars .line.best { stroke: var(--mark); }
    .bars .line.dashed { stroke-dasharray: 5 4; }
"""
_WIDTH, _LABELS, _NUMBERS, _STEP = 480, 178, 52, 30


def bars(
    name: str, title: str, unit: str, rows: Sequence[tuple[str, float]], best: str, start: float = 0
) -> str:
    """An SVG of horizontal bars from `start`, with each number at its end; `best` has the colour."""
    room = _WIDTH - _LABELS - _NUMBERS
    scale = room / (max(value for _, value in rows) - start)
    height = _STEP * len(rows) + 44
    said = "; ".join(f"{label}: {value:g}" for label, value in rows)
    lines = [
        f'<svg class="drawing bars" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'role="img" aria-labelledby="{name}-title {name}-description">',
        f'  <title id="{name}-title">{escape(title)}</title>',
        f'  <desc id="{name}-description">{escape(said)}</desc>',
        f"  <style>{_STYLE}  </style>",
        f'  <text class="small end" x="{_WIDTH - 4}" y="18">{escape(unit)}</text>',
    ]
    for at, (label, value) in enumerate(rows):
        top = 28 + at * _STEP
        length = max(1.0, (value - start) * scale)
        kind = "best" if label == best else "other"
        lines += [
            f'  <text class="end" x="{_LABELS - 10}" y="{top + 16}">{escape(label)}</text>',
            f'  <rect class="{kind}" x="{_LABELS}" y="{top + 2}" width="{length:.1f}" height="20" rx="3"/>',
            f'  <text x="{_LABELS + length + 8:.1f}" y="{top + 16}">{value:.2f}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def curves(
    name: str, title: str, panels: Sequence[tuple[str, dict[str, list[float]]]], steps: list[int]
) -> str:
    """An SVG of a panel a model: by arm, its values at these steps; the second arm has the colour."""
    width, height, left, top, gap = 640, 250, 46, 46, 60
    wide, high = (width - left - gap * (len(panels) - 1) - 16) / len(panels), height - top - 44
    said = "; ".join(
        f"{model}, {arm}: {', '.join(f'{value:g}' for value in values)}"
        for model, arms in panels
        for arm, values in arms.items()
    )
    lines = [
        f'<svg class="drawing bars" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'role="img" aria-labelledby="{name}-title {name}-description">',
        f'  <title id="{name}-title">{escape(title)}</title>',
        f'  <desc id="{name}-description">{escape(said)}</desc>',
        f"  <style>{_STYLE}  </style>",
    ]
    kinds = ("", " best", " dashed")
    for at, (arm, kind) in enumerate(zip(panels[0][1], kinds, strict=True)):
        x = left + at * 175
        lines += [
            f'  <path class="line{kind}" d="M{x} 13h26"/>',
            f'  <text class="small" x="{x + 32}" y="18">{escape(arm)}</text>',
        ]
    for at, (model, arms) in enumerate(panels):
        x0 = left + at * (wide + gap)
        values = [value for found in arms.values() for value in found]
        low, span = min(values), max(values) - min(values)
        xs = [x0 + wide * step / steps[-1] for step in steps]
        lines += [
            f'  <text x="{x0:.0f}" y="{top - 8}">{escape(model)}</text>',
            f'  <path class="axis" d="M{x0:.1f} {top}v{high}h{wide:.1f}"/>',
            *(
                f'  <text class="small end" x="{x0 - 4:.1f}" y="{y}">{value:.2f}</text>'
                for value, y in ((max(values), top + 10), (low, top + high))
            ),
            *(
                f'  <text class="small end" x="{x + 8:.1f}" y="{top + high + 16}">{step}</text>'
                for x, step in zip(xs, steps, strict=True)
            ),
        ]
        for found, kind in zip(arms.values(), kinds, strict=True):
            points = " ".join(
                f"{x:.1f},{top + high * (1 - (value - low) / span):.1f}"
                for x, value in zip(xs, found, strict=True)
            )
            lines.append(f'  <polyline class="line{kind}" points="{points}"/>')
    lines += [
        f'  <text class="small" x="{left}" y="{height - 8}">nats per token of held-out text, by step '
        "of training: lower is better</text>",
        "</svg>",
        "",
    ]
    return "\n".join(lines)


def demo(readme: str) -> str:
    """Bits per byte before and after, from the demo's table in the README."""
    (table,) = re.findall(r"^-{70}\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    rows = []
    for line in table.splitlines():
        # The label has 22 columns and the two counts of rows 14.
        rows.append((line[:22].strip(), float(line[36:].split()[0])))
    names = {"base, own tokenizer": "before, own tokenizer"}
    return bars(
        "demo",
        "Bits per byte before and after a swap",
        "bits per byte of held-out text: lower is better",
        [(names.get(label, label), value) for label, value in rows],
        "kriging",
    )


def recovery(quality: str) -> str:
    """What each method wins over zero rows, from the last column of quality.md's first results."""
    (table,) = re.findall(
        r"^\| bits per byte \|.*recovery / omp 64 \|\n\|.*\n((?:\|.*\n)+)", quality, re.MULTILINE
    )
    rows = []
    for line in table.splitlines():
        name, *_, won = (cell.strip(" *") for cell in line.strip("|").split("|"))
        if won and float(won) > 0 and "," not in name:
            rows.append(({"omp 64": "omp, as in the paper"}.get(name, name), float(won)))
    return bars(
        "recovery",
        "What each method wins back",
        "won over zero rows, the paper's omp being 1: higher is better",
        sorted(rows, key=lambda row: -row[1]),
        "kriging",
    )


def by_pair(quality: str) -> str:
    """The same pair by pair, with intervals, from quality.md's second table of results."""
    heading, table = re.findall(
        r"^\| recovery / omp 64 \|(.*)\n\|-.*\n((?:\|.*\n)+)", quality, re.MULTILINE
    )[0]
    pairs = [pair.strip() for pair in heading.strip(" |").split("|")]
    found: dict[str, list[list[float]]] = {}
    for line in table.splitlines():
        name, *cells = (cell.strip(" `") for cell in line.strip("|").split("|"))
        # 1.57 [1.45, 1.73]
        found[name] = [[float(n) for n in re.findall(r"-?\d+\.\d+", cell)] for cell in cells]
    methods = {"kriging": "best", "omp": "dot", "linear": "ring"}
    shown = [found[name] for name in methods]
    low = min(0.0, *(each[1] for values in shown for each in values))
    high = max(each[2] for values in shown for each in values)
    left, right = 74, _WIDTH - 12
    step, top = 40, 56

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    height = top + step * len(pairs) + 26
    title = "What each method wins back, pair by pair"
    said = "; ".join(
        f"{pair}: " + ", ".join(f"{name} {found[name][i][0]:g}" for name in methods)
        for i, pair in enumerate(pairs)
    )
    lines = [
        f'<svg class="drawing bars" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'role="img" aria-labelledby="pairs-title pairs-description">',
        f'  <title id="pairs-title">{escape(title)}</title>',
        f'  <desc id="pairs-description">{escape(said)}</desc>',
        f"  <style>{_STYLE}  </style>",
        f'  <text class="small end" x="{_WIDTH - 4}" y="18">won over zero rows, the paper\'s omp '
        "being 1: higher is better</text>",
    ]
    at = left
    for name, kind in methods.items():
        lines += [_point(at, 40, kind), f'  <text x="{at + 12}" y="45">{name}</text>']
        at += 110
    for mark in range(int(high) + 1):
        lines += [
            f'  <line x1="{x(mark):.1f}" y1="{top}" x2="{x(mark):.1f}" y2="{height - 24}"/>',
            f'  <text class="small" text-anchor="middle" x="{x(mark):.1f}" y="{height - 6}">{mark}</text>',
        ]
    for i, pair in enumerate(pairs):
        middle = top + step * i + step / 2
        lines.append(
            f'  <text class="end" x="{left - 10}" y="{middle + 5:.0f}">{escape(pair)}</text>'
        )
        for place, (name, kind) in enumerate(methods.items()):
            value, first, last = found[name][i]
            y = middle + 9 * (place - 1)
            interval = "best-interval" if kind == "best" else "other-interval"
            lines += [
                f'  <line class="{interval}" x1="{x(first):.1f}" y1="{y:.0f}" x2="{x(last):.1f}" '
                f'y2="{y:.0f}"/>',
                _point(x(value), y, kind),
            ]
    return "\n".join([*lines, "</svg>", ""])


def _point(x: float, y: float, kind: str) -> str:
    return f'  <circle class="{kind}" cx="{x:.1f}" cy="{y:.0f}" r="{5 if kind == "best" else 4}"/>'


def growing(page: str) -> str:
    """The loss in training further, from the tables of grow.md."""
    panels, steps = [], []
    for model, head, table in re.findall(
        r"^\*\*(.+)\*\*\n\n\| arm \|(.*)\n\|.*\n((?:\|.*\n)+)", page, re.MULTILINE
    ):
        steps = [int(found) for found in re.findall(r"step (\d+)", head)]
        arms = {}
        for line in table.splitlines():
            arm, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            arms[arm] = [float(cell.split()[0]) for cell in cells[: len(steps)]]
        panels.append((model, arms))
    return curves("growing", "What tables of n-grams win in training further", panels, steps)


def drawn() -> dict[Path, str]:
    """Each picture, by the file that it belongs in."""
    quality = (DOCS / "quality.md").read_text(encoding="utf-8")
    return {
        ASSETS / "demo.svg": demo((DOCS.parent / "README.md").read_text(encoding="utf-8")),
        ASSETS / "recovery.svg": recovery(quality),
        ASSETS / "pairs.svg": by_pair(quality),
        ASSETS / "growing.svg": growing((DOCS / "grow.md").read_text(encoding="utf-8")),
    }


if __name__ == "__main__":
    for path, svg in drawn().items():
        path.write_text(svg, encoding="utf-8")
