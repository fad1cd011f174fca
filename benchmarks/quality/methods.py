"""Every method that is compared, in one place: to add one, add a line to `METHODS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PEER = "mergekit-tokensurgeon"
"""In place of a merge method: the command of that name, without the plugin."""


@dataclass(frozen=True)
class Method:
    """A row of the tables: what it is called, and what stands in the config."""

    label: str
    approximation: str
    """As in `merge_method:`, or `PEER`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)


def _omp(k: int) -> Mapping[str, Any]:
    """The paper's settings with another k."""
    return {"paper": True, "k": k}


METHODS: tuple[Method, ...] = (
    Method("zero", "zero"),
    Method("mean", "mean"),
    Method("subword", "subword"),
    Method("wechsel", "wechsel"),
    Method("focus", "focus"),
    Method("knn", "knn"),
    Method("linear", "linear"),
    Method("tokensurgeon omp 64", PEER, {"k": 64}),
    Method("kriging", "kriging"),
    Method("kriging, no adapt", "kriging", {"adapt": False}),
    Method("kriging, no neighbors", "kriging", {"neighbors": 0}),
    Method("kriging, no digits", "kriging", {"digits": False}),
    Method("kriging, no gain", "kriging", {"head_gain": 1.0}),
    Method("omp", "omp"),
    Method("omp 64", "omp", _omp(64)),
    Method("omp 32", "omp", _omp(32)),
    Method("omp 16", "omp", _omp(16)),
    Method("omp 8", "omp", _omp(8)),
    Method("omp 8, gain", "omp", {"k": 8, "head_gain": 1.25}),
)

ZERO = "zero"
"""The label that recovery is counted from."""

PAPER = "omp 64"
"""The label of the paper's settings, with which every method is compared."""


def chosen(labels: Sequence[str] | None) -> tuple[Method, ...]:
    """The methods with these labels, and the two that all are compared with; all by default.

    Raises:
        ValueError: there is no method of such a label.
    """
    if labels is None:
        return METHODS
    known = [method.label for method in METHODS]
    for label in labels:
        if label not in known:
            raise ValueError(f"there is no method {label!r}: write some of {', '.join(known)}")
    return tuple(method for method in METHODS if method.label in (*labels, ZERO, PAPER))
