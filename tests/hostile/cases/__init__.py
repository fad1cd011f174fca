"""The tables of inputs, by kind."""

from __future__ import annotations

from hostile.cases import configs, evaluations, numbers, reports, tokenizers, weights
from hostile.scene import Case

ALL: list[Case] = [
    *weights.CASES,
    *tokenizers.CASES,
    *numbers.CASES,
    *configs.CASES,
    *reports.CASES,
    *evaluations.CASES,
]
