"""Numbers and names as the report writes them, in HTML and in Markdown alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = {"input": "Input embedding", "head": "Output head", "head_bias": "Bias of the head"}

COUNTS = (
    ("copied", "copied"),
    ("approximated", "approximated"),
    ("without_donor_row", "mean row, no donor has one"),
    ("overridden", "set in the config"),
    ("padding", "padding"),
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
    # Adding 0 makes no number of the minus that a small one is rounded to.
    rounded = round(value, digits if abs(value) < 100 else 1) + 0.0
    return f"{rounded:,.{digits if abs(value) < 100 else 1}f}".replace("-", "−")


def parameters(values: Mapping[str, Any]) -> str:
    """`k: 16, center: true`, or nothing."""
    return ", ".join(f"{name}: {_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    if value is None:
        return "auto"
    return str(value).lower() if isinstance(value, bool) else str(value)


def weight(value: float) -> str:
    """A signed weight: +0.44 or −0.38."""
    return f"{value:+.2f}".replace("-", "−")


def percent(share: float) -> str:
    """12%; 99.95% where rounding would say all."""
    return f"{100 * share:.0f}%" if share <= 0.99 or share == 1 else f"{100 * share:.2f}%"


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
OUTLIERS = (
    "Approximated rows that lie at least 1.5 times as far from the mean row as 99.9% of the "
    "model's own rows do, although their rows in the donor are ordinary. A donor can be built so "
    "that a token does nothing there and much here: look at these tokens before you trust the "
    "output."
)
NO_OUTLIERS = "No approximated row is large here and ordinary in the donor."
RESIDUAL = (
    "What is left of the donor's row after the fit, over its norm: 0 is a perfect fit, 1 none."
)
MAP = "A sample of rows in the plane that shows most of the copied rows' differences"
