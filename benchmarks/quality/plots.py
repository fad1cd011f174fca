"""The results as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.quality.methods import METHODS, PAPER, ZERO
from benchmarks.quality.results import PairResult, predictions

_BLUE, _GREY, _ORANGE = "#2b6cb0", "#a0aec0", "#dd6b20"


def draw(results: Sequence[PairResult], folder: Path) -> None:
    """Writes recovery.png, k.png and prediction.png, those of them that there are data for."""
    _recovery(results, folder / "recovery.png")
    _sparsity(results, folder / "k.png")
    _prediction(results, folder / "prediction.png")


def _panels(count: int, width: float, height: float) -> tuple[plt.Figure, list[plt.Axes]]:
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, sharey=True
    )
    axes = list(grid.flat)
    for unused in axes[count:]:
        unused.axis("off")
    return figure, axes[:count]


def _recovery(results: Sequence[PairResult], path: Path) -> None:
    """What each method wins over zero rows, with intervals, pair by pair."""
    labels = list(dict.fromkeys(label for r in results for label in r.methods if label != ZERO))
    figure, axes = _panels(len(results), 4.2, 0.28 * len(labels) + 1.0)
    for axis, result in zip(axes, results, strict=True):
        for row, label in enumerate(labels):
            if label not in result.methods:
                continue
            won = result.compared[label].recovery
            axis.barh(row, won.value, color=_ORANGE if label == PAPER else _BLUE, height=0.7)
            axis.plot([won.low, won.high], [row, row], color="black", linewidth=1)
        axis.axvline(0, color="black", linewidth=0.6)
        axis.axvline(result.compared[PAPER].recovery.value, color=_ORANGE, linewidth=0.8)
        axis.set_yticks(range(len(labels)), labels)
        axis.set_title(str(result.pair), fontsize=10)
        axis.set_xlabel("bits per byte won over zero rows", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.locator_params(axis="x", nbins=6)
        # Far below zero lies what is worse than nothing: its bar leaves the picture.
        best = max(1e-3, *(c.recovery.high for c in result.compared.values()))
        axis.set_xlim(-0.6 * best, 1.1 * best)
    axes[0].invert_yaxis()
    _save(figure, path)


def _sparsity(results: Sequence[PairResult], path: Path) -> None:
    """Recovery over the paper's as k falls."""
    sparsity = {
        method.label: int(method.parameters["k"])
        for method in METHODS
        if method.approximation == "omp" and "k" in method.parameters
    }
    lines = {
        str(result.pair): sorted(
            (k, result.compared[label].ratio.value)
            for label, k in sparsity.items()
            if label in result.methods
        )
        for result in results
    }
    if max(map(len, lines.values())) < 2:
        return
    figure, axis = plt.subplots(figsize=(6.4, 4))
    for name, points in lines.items():
        axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
    axis.set_xscale("log", base=2)
    ticks = sorted(set(sparsity.values()))
    axis.set_xticks(ticks, [str(k) for k in ticks])
    axis.set_xlabel("k")
    axis.set_ylabel(f"recovery / that of {PAPER}")
    axis.axhline(1, color="black", linewidth=0.6)
    axis.legend(fontsize=8)
    _save(figure, path)


def _prediction(results: Sequence[PairResult], path: Path) -> None:
    """How each error of hidden tokens ranks the methods: one point a pair."""
    found = {
        name: [value for value in values if not math.isnan(value)]
        for name, values in predictions(results).items()
    }
    found = {name: values for name, values in found.items() if values}
    if not found:
        return
    order = sorted(found, key=lambda name: sum(found[name]) / len(found[name]))
    figure, axis = plt.subplots(figsize=(6.4, 0.3 * len(order) + 1.2))
    for row, name in enumerate(order):
        axis.scatter(found[name], [row] * len(found[name]), color=_GREY, s=16)
        axis.scatter([sum(found[name]) / len(found[name])], [row], color=_BLUE, s=30)
    axis.set_yticks(range(len(order)), order, fontsize=8)
    axis.axvline(0, color="black", linewidth=0.6)
    axis.set_xlabel("rank correlation with the loss (grey: a pair, blue: mean)", fontsize=8)
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
