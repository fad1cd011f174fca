"""The results as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmarks.quality.corpus import KINDS
from benchmarks.quality.measuring import Measured
from benchmarks.quality.methods import PAPER, PEER, ZERO
from benchmarks.quality.results import PairResult, bits_per_token, predictions
from benchmarks.quality.statistics import Estimate


def report(results: Sequence[PairResult]) -> str:
    """All tables, headed."""
    lines = ["# Quality", "", *_overview(results)]
    for result in results:
        lines += ["", f"## {result.pair}", "", *_pair(result)]
    lines += ["", "## Hidden tokens", "", *_hidden(results)]
    lines += ["", "## What predicts the loss", "", *_predictions(results)]
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|---|{'---:|' * (len(header) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _labels(results: Sequence[PairResult]) -> list[str]:
    return list(dict.fromkeys(label for result in results for label in result.methods))


def _overview(results: Sequence[PairResult]) -> Iterator[str]:
    """Bits per byte of every method on every pair, and the mean of recovery ratios."""
    rows = [["own tokenizer", *(f"{r.own_rate:.3f}" for r in results), ""]]
    for label in _labels(results):
        cells, ratios = [], []
        for result in results:
            if label not in result.methods:
                cells.append("")
                continue
            compared = result.compared[label]
            best = min(c.bits_per_byte.value for c in result.compared.values())
            written = f"{compared.bits_per_byte.value:.3f}"
            cells.append(f"**{written}**" if compared.bits_per_byte.value == best else written)
            ratios.append(compared.ratio.value)
        rows.append([label, *cells, _number(_mean(ratios), 2)])
    header = ["bits per byte", *(str(r.pair) for r in results), f"recovery / {PAPER}"]
    yield from _table(header, rows)
    yield ""
    yield (
        f"Recovery is what a method wins over zero rows; the last column is the mean over pairs of "
        f"recovery over that of `{PAPER}`. The best of each pair is bold."
    )


def _pair(result: PairResult) -> Iterator[str]:
    header = ["method", "bits per byte", *KINDS, "copied tokens", "new tokens"]
    header += ["recovery", f"won over {PAPER}", f"recovery / {PAPER}"]
    rows = [["own tokenizer", *_bits(result, result.own), "", "", "", ""]]
    rows[0][5:7] = [f"{bits_per_token(result.own)[0]:.2f}", ""]
    for label, measured in result.methods.items():
        compared = result.compared[label]
        new = [f"{bits:.2f}" for bits in bits_per_token(measured)]
        won = ["", "", ""]
        if label != ZERO:
            won[0] = _interval(compared.recovery)
        if label not in (ZERO, PAPER):
            won[1:] = [_interval(compared.over_paper, "+"), _interval(compared.ratio, "", 2)]
        rows.append([label, *_bits(result, measured), *new, *won])
    yield from _table(header, rows)


def _bits(result: PairResult, measured: Measured) -> list[str]:
    groups = (KINDS, *((kind,) for kind in KINDS))
    return [f"{result.bits_per_byte(measured, group):.3f}" for group in groups]


def _interval(estimate: Estimate, sign: str = "", digits: int = 3) -> str:
    numbers = (estimate.value, estimate.low, estimate.high)
    if math.isnan(estimate.value):
        return "–"
    value, low, high = (f"{number:{sign}.{digits}f}" for number in numbers)
    return f"{value} [{low}, {high}]"


def _mean(values: Sequence[float]) -> float:
    """Of those that are numbers; not a number where none is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _number(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _hidden(results: Sequence[PairResult]) -> Iterator[str]:
    """Mean errors over the pairs: cosine, norm ratio, relative squared error."""
    parts = ("input", "head")
    rows = []
    for label in _labels(results):
        if label == ZERO or PEER in label:
            continue
        row = [label]
        for part in parts:
            found = [
                result.methods[label].errors[part]
                for result in results
                if label in result.methods and part in result.methods[label].errors
            ]
            for name in ("cosine", "norm_ratio", "squared_error"):
                values = [getattr(errors, name) for errors in found]
                row.append(_number(_mean(values)))
        rows.append(row)
    names = ("cosine", "norm ratio", "squared error")
    yield from _table(["method", *(f"{part}: {name}" for part in parts for name in names)], rows)
    yield ""
    yield (
        "Shared tokens hidden from the merge and approximated: cosine with the true row, norm over "
        "the true norm, squared error over the squared true norm; means over the pairs."
    )


def _predictions(results: Sequence[PairResult]) -> Iterator[str]:
    rows = []
    for name, correlations in predictions(results).items():
        known = [value for value in correlations if not math.isnan(value)]
        if known:
            cells = [_number(_mean(known), 2), _number(min(known), 2), str(len(known))]
            rows.append([name, *cells])
    rows.sort(key=lambda row: -float(row[1]))
    yield from _table(["error of hidden tokens", "mean rank correlation", "lowest", "pairs"], rows)
    yield ""
    yield (
        "Spearman's correlation with bits per byte across methods, zero rows apart: 1 ranks the "
        "methods as the loss does. `by use` weights tokens by how often held-out text has them."
    )
