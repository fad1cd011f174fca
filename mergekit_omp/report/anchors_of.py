"""The anchors of a few approximated tokens, coded once more as the merge coded them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mergekit_omp.approximation import AnchorCoding, Needs, Texts
from mergekit_omp.report.contents import Anchor
from mergekit_omp.report.token_text import shown
from mergekit_omp.transplant.row_plan import ApproximatedRows, vocabulary_first
from mergekit_omp.vocabulary import Vocabulary

SHOWN = 4
"""Anchors to a token: those of the largest weights, whatever their signs."""


def anchors_of(
    filling: ApproximatedRows,
    places: Int[np.ndarray, "tokens"],
    model: Vocabulary,
) -> list[tuple[Anchor, ...]]:
    """The heaviest anchors of the missing tokens at `places` of the filling.

    Empty for methods that do not code in anchors. Raises ValueError as the method does.
    """
    method = filling.approximation
    if not isinstance(method, AnchorCoding) or not len(places):
        return [() for _ in places]
    donor = None
    if filling.donor is not None and Needs.DONOR_ROWS in method.needs:
        donor = vocabulary_first(filling.donor.execute(), filling.donor_axis)
    plan = replace(
        filling.plan,
        targets=filling.plan.targets[places],
        texts=_texts(filling.plan.texts, places),
        progress=False,
    )
    code = method.encode(plan.space(method.needs, donor))
    return [
        tuple(Anchor(_named(model, row), weight) for row, weight in _heaviest(*code.weights(i)))
        for i in range(len(places))
    ]


def _texts(texts: Texts | None, places: Int[np.ndarray, "tokens"]) -> Texts | None:
    if texts is None:
        return None
    return replace(texts, missing=[texts.missing[i] for i in places])


def _heaviest(rows: Tensor, weights: Tensor) -> list[tuple[int, float]]:
    order = torch.argsort(weights.abs(), descending=True, stable=True)[:SHOWN]
    return list(zip(rows[order].tolist(), weights[order].tolist(), strict=True))


def _named(model: Vocabulary, row: int) -> str:
    content = model.content[row]
    return shown(content if content is not None else model.strings[row] or f"id {row}")
