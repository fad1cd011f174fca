"""The held-out check: some shared tokens are treated as missing, approximated, and compared.

Their true rows are known: the model has them. What predicts the loss is how well the offset of a
row from the mean row is met, since softmax ignores what all rows of a head have in common. A method
that writes the mean row for every token tells nothing of them, and scores 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.stats import spearmanr
from torch import Tensor

from mergekit_omp.approximation import (
    APPROXIMATIONS,
    Approximation,
    Needs,
    Texts,
)
from mergekit_omp.approximation.codes import working_dtype
from mergekit_omp.approximation.moments import finite_mean
from mergekit_omp.approximation.pieces import segmenter_without
from mergekit_omp.report.look_alikes import Pairs, look_alikes
from mergekit_omp.transplant.row_plan import ApproximatedRows, CodingRows
from mergekit_omp.vocabulary import Vocabulary

FEWEST = 20
"""With fewer hidden tokens no check is made, since its figures would mean nothing."""
_LARGEST_SHARE = 10
"""At most one anchor in so many is hidden, so that the problem stays that of the merge."""
_NEGLIGIBLE = 1e-5
"""An offset from the mean row that is smaller than this share of the row's norm is rounding."""


@dataclass(frozen=True)
class Outcome:
    """How one method fares on one tensor's hidden tokens."""

    method: str
    parameters: dict[str, object]
    recorded: bool
    """Whether it is the method of the merge, with its parameters."""
    score: float
    """Mean cosine of the offsets from the mean row: 1 for the row itself, 0 for no information."""
    cosine: float
    """Mean cosine of approximated and true row."""
    norm_ratio: float
    """Median of the approximated over the true norm."""
    error: float
    """Squared error over the squared norm of the true rows."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The check of one tensor of one model."""

    hidden: int
    anchors: int
    """How many anchors were left to approximate from."""
    outcomes: tuple[Outcome, ...]
    """Of every method that could be run, from the best score to the worst."""
    refused: dict[str, str]
    """Methods that could not be run, and why."""
    scores: Float[np.ndarray, "hidden"]
    """Scores of the merge's method, one per hidden token."""
    fits: Float[np.ndarray, "hidden"] | None
    """Its figure of fit of the same tokens; None where it has none."""
    error: float
    """Root mean square of its errors, over that of the true rows' distances from the mean row."""

    @property
    def fit_tells(self) -> float | None:
        """How far the figure of fit orders the hidden tokens as the scores do.

        Spearman's rank correlation, 1 where a better fit is always a better row; None where there
        is no figure, or all are alike.
        """
        fit = APPROXIMATIONS[self.own.method].fit
        if fit is None or self.fits is None:
            return None
        known = np.isfinite(self.fits)
        fits, scores = self.fits[known], self.scores[known]
        if len(fits) < FEWEST or np.ptp(fits) == 0 or np.ptp(scores) == 0:
            return None
        return float(spearmanr(fits, scores).statistic) * (-1 if fit.largest_is_worst else 1)

    @property
    def own(self) -> Outcome:
        """The outcome of the method of the merge."""
        return next(outcome for outcome in self.outcomes if outcome.recorded)


def held_out(
    served: ApproximatedRows,
    model: Vocabulary,
    donor: Vocabulary,
    missing: list[bytes | None],
    base: Float[Tensor, "base_rows dim"],
    count: int,
    methods: list[Approximation],
) -> HeldOut | None:
    """Hides tokens and approximates them by each of `methods`, of which the first is the merge's.

    `base` is the model's matrix. While methods run, its hidden rows are NaN, so that none can read
    them; they are restored afterwards. None where there are too few anchors for a check, or the
    merge's method reads the very row that is hidden: a hypernetwork spells a token by itself.
    """
    if Needs.BASE_MATRICES in methods[0].needs:
        return None
    plan = served.coding
    texts = [model.content[row] for row in plan.anchor_rows]
    count = min(count, len(plan.anchors) // _LARGEST_SHARE)
    pairs = look_alikes(missing, plan.targets, texts, plan.anchors, count)
    if len(pairs.hidden) < FEWEST:
        return None
    rows = plan.anchor_rows[pairs.hidden]
    true = base[torch.from_numpy(rows)].to(working_dtype(base))
    inputs = _without(plan, pairs, model, donor, len(base), rows)
    index = torch.from_numpy(rows)
    matrices = served.donor_matrices()
    fits = None
    kept = base[index].clone()
    base[index] = torch.nan
    try:
        mean = finite_mean(base).to(true.dtype)
        found, refused = {}, {}
        for method in methods:
            given = inputs.inputs(method, *matrices)
            problem = served.problem(base, given)
            try:
                found[method] = method.rows(problem).to(true)
            except ValueError as error:
                refused[method.name] = str(error)
            if method == methods[0] and method.fit is not None:
                fits = given.row_fit.get(method.fit.key)
    finally:
        base[index] = kept
    if methods[0] not in found:
        return None
    scores = {method: _offset_cosines(rows, true, mean) for method, rows in found.items()}
    outcomes = [
        _outcome(method, found[method], true, scores[method], recorded=method == methods[0])
        for method in found
    ]
    return HeldOut(
        hidden=len(true),
        anchors=len(inputs.anchors),
        outcomes=tuple(sorted(outcomes, key=lambda outcome: -outcome.score)),
        refused=refused,
        scores=scores[methods[0]].numpy(),
        error=_relative_error(found[methods[0]], true, mean),
        fits=None if fits is None else fits.double().numpy(force=True),
    )


def all_methods(recorded: Approximation) -> list[Approximation]:
    """The recorded method, then every other method with its defaults."""
    others = [kind() for kind in APPROXIMATIONS.values()]
    others = [other for other in others if Needs.BASE_MATRICES not in other.needs]
    return [recorded, *(other for other in others if other != recorded)]


def _without(
    plan: CodingRows,
    pairs: Pairs,
    model: Vocabulary,
    donor: Vocabulary,
    base_rows: int,
    rows: Int64[np.ndarray, "hidden"],
) -> CodingRows:
    left = np.delete(np.arange(len(plan.anchors)), pairs.hidden)
    return CodingRows(
        targets=plan.anchors[pairs.hidden],
        anchors=plan.anchors[left],
        anchor_rows=plan.anchor_rows[left],
        texts=hidden_texts(model, donor, base_rows, rows.tolist()),
        progress=False,
    )


def hidden_texts(
    model: Vocabulary, donor: Vocabulary, base_rows: int, hidden: Sequence[int]
) -> Texts:
    """Texts in which the model has no token at the rows `hidden`, which are the missing ones."""
    gone = frozenset(hidden)
    return Texts(
        missing=[model.content[row] for row in hidden],
        base=[None if row in gone else text for row, text in enumerate(model.content[:base_rows])],
        donor=donor.content,
        segment_in_base=segmenter_without(model.segment, model.content[:base_rows], gone),
        segment_in_donor=donor.segment,
        emitted=model.segmenter.emitted[:base_rows],
    )


def _offset_cosines(
    found: Float[Tensor, "hidden dim"],
    true: Float[Tensor, "hidden dim"],
    mean: Float[Tensor, "dim"],
) -> Float[Tensor, "hidden"]:
    """Cosines of the offsets from the mean row; 0 where the approximated row is the mean row."""
    offset, wanted = found - mean, true - mean
    lengths = offset.norm(dim=1)
    cosines = torch.cosine_similarity(offset, wanted, dim=1)
    return cosines.where(lengths > _NEGLIGIBLE * true.norm(dim=1), 0)


def _relative_error(
    found: Float[Tensor, "hidden dim"],
    true: Float[Tensor, "hidden dim"],
    mean: Float[Tensor, "dim"],
) -> float:
    return float(((found - true).square().sum() / (true - mean).square().sum()).sqrt())


def _outcome(
    method: Approximation,
    found: Float[Tensor, "hidden dim"],
    true: Float[Tensor, "hidden dim"],
    scores: Float[Tensor, "hidden"],
    *,
    recorded: bool,
) -> Outcome:
    return Outcome(
        method=method.name,
        parameters=_told_parameters(method),
        recorded=recorded,
        score=float(scores.mean()),
        cosine=float(torch.cosine_similarity(found, true, dim=1).mean()),
        norm_ratio=float((found.norm(dim=1) / true.norm(dim=1)).median()),
        error=float((found - true).square().sum() / true.square().sum()),
    )


def _told_parameters(method: Approximation) -> dict[str, object]:
    """The method's parameters that are not at their defaults, and always k."""
    return {
        name: value
        for name, value in method.model_dump(mode="json").items()
        if name == "k" or value != type(method).model_fields[name].default
    }
