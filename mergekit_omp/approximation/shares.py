"""How much of each estimate goes into a row: what anchors say that are hidden from all of them.

Stacking (Wolpert 1992; Breiman 1996): weights of several estimates, none of them negative, that
minimise the squared error on rows which the estimates did not see. The weights are drawn towards
those that are used without evidence, so that they move only as far as the evidence pays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mergekit_omp.approximation.anchors import usable_rows
from mergekit_omp.approximation.base import CodingInputs, MissingRows, Texts
from mergekit_omp.approximation.pieces import segmenter_without

HIDDEN = 1500
"""Anchors that are hidden at most, and one in `EVERY`."""
EVERY = 5
FEWEST = 400
"""With fewer anchors nothing is hidden, since it would tell too little."""
PULL = 0.1
"""How far the error may rise, relative to itself, for weights to stay at a distance of 1."""
HEAD_OF_ZIPF = 300
"""Use is taken to fall as 1 / (id in the donor's vocabulary + this)."""


@dataclass(frozen=True, eq=False)
class HiddenAnchors:
    """A problem made of a problem's own anchors, and its answer."""

    problem: MissingRows
    true: Float[Tensor, "hidden base_dim"]
    use: Float64[Tensor, "hidden"]
    """What the error of each token counts: how often text is expected to use it."""


def hide_anchors(problem: MissingRows, texts: Texts) -> HiddenAnchors | None:
    """Hides some anchors at even distances in the donor's vocabulary; None where there are few."""
    inputs = problem.inputs
    assert inputs.anchors is not None
    usable = usable_rows(inputs.anchors).nonzero()[:, 0].cpu()
    if len(usable) < FEWEST:
        return None
    ids = _donor_ids(texts, inputs.anchor_rows[usable].tolist())
    order = usable[ids.argsort(stable=True)]
    count = min(HIDDEN, len(usable) // EVERY)
    hidden = order[torch.arange(count) * len(order) // count]
    left = torch.ones(len(inputs.anchor_rows), dtype=torch.bool)
    left[hidden] = False
    rows = inputs.anchor_rows[hidden].to(torch.int64)
    known = problem.base[rows.to(problem.base.device)]
    within = CodingInputs(
        missing=count,
        anchor_rows=inputs.anchor_rows[left],
        targets=inputs.anchors[hidden],
        anchors=inputs.anchors[left],
        donor=inputs.donor,
        other_targets=None if inputs.other_anchors is None else inputs.other_anchors[hidden],
        other_anchors=None if inputs.other_anchors is None else inputs.other_anchors[left],
        texts=_without(texts, rows.tolist()),
    )
    use = 1 / (_donor_ids(texts, rows.tolist()).double() + HEAD_OF_ZIPF)
    return HiddenAnchors(dataclasses.replace(problem, inputs=within), known, use)


def _donor_ids(texts: Texts, rows: Sequence[int]) -> Tensor:
    """The donor's ids of the base's tokens at `rows`."""
    of_text = {text: i for i, text in reversed(list(enumerate(texts.donor))) if text is not None}
    return torch.tensor([of_text.get(texts.base[row] or b"", len(texts.donor)) for row in rows])


def _without(texts: Texts, rows: Sequence[int]) -> Texts:
    """The texts where the base has no token at `rows`, which are the missing ones."""
    gone = frozenset(rows)
    return dataclasses.replace(
        texts,
        missing=[texts.base[row] for row in rows],
        base=[None if row in gone else text for row, text in enumerate(texts.base)],
        segment_in_base=segmenter_without(texts.segment_in_base, texts.base, gone),
    )


def fit_shares(
    estimates: Sequence[Float[Tensor, "hidden base_dim"]],
    true: Float[Tensor, "hidden base_dim"],
    use: Float64[Tensor, "hidden"],
    without_evidence: Sequence[float],
) -> list[float]:
    """Shares c >= 0 that minimise E(c) + `PULL` E(c0) |c - c0|², E the squared error by use of the
    sum of c_i times estimate i, and c0 the shares `without_evidence`."""
    root = use.to(true.device).sqrt()[:, None]
    wanted = (true.double() * root).flatten()
    columns = torch.stack([(estimate.double() * root).flatten() for estimate in estimates], dim=1)
    gram = (columns.T @ columns).cpu().numpy()
    right = (columns.T @ wanted).cpu().numpy()
    start = np.array(without_evidence)
    error = float(wanted @ wanted) - 2 * start @ right + start @ gram @ start
    pull = max(PULL * error, np.finfo(np.float64).eps * np.trace(gram), np.finfo(np.float64).tiny)
    factor = np.linalg.cholesky(gram + pull * np.eye(len(start))).T
    target = scipy.linalg.solve_triangular(factor.T, right + pull * start, lower=True)
    return [float(share) for share in scipy.optimize.nnls(factor, target)[0]]


def squared_error(
    estimates: Sequence[Float[Tensor, "hidden base_dim"]],
    true: Float[Tensor, "hidden base_dim"],
    shares: Sequence[float],
) -> float:
    """The squared error of the sum of `shares[i]` times estimate i, over all hidden rows alike."""
    left = true.double()
    for share, estimate in zip(shares, estimates, strict=True):
        left = left - share * estimate.double()
    return float(left.square().sum())
