"""`kriging`: a regression from what is known of a token to its row, and what its neighbours add.

Regression kriging, as in geostatistics: a trend that is fitted on all anchors, and an
interpolation of the residuals that it leaves at the nearest of them.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int64
from pydantic import Field
from torch import Tensor

from mergekit_omp.approximation.all_tokens import AllTokens
from mergekit_omp.approximation.base import (
    Approximation,
    Cost,
    MissingRows,
    Needs,
    Part,
    Sizes,
    all_similarities,
    texts_of,
)
from mergekit_omp.approximation.chunks import WORKING_MEMORY, chunks
from mergekit_omp.approximation.coarse_neighbours import worthwhile
from mergekit_omp.approximation.codes import working_dtype
from mergekit_omp.approximation.donor_features import DonorFeatures
from mergekit_omp.approximation.features import (
    FeatureBlock,
    MeanRows,
    anchor_features,
)
from mergekit_omp.approximation.fit import NEIGHBOURS, PREDICTED_ERROR, Fit, Parts, predicted_errors
from mergekit_omp.approximation.interpolation import AnchorSearch, NearestAnchors
from mergekit_omp.approximation.moments import finite_mean_at, mean_row
from mergekit_omp.approximation.numbers import blend_digits, digit_rows
from mergekit_omp.approximation.parameters import Count, PositiveFloat
from mergekit_omp.approximation.pieces import pieces_of_missing, pieces_without_itself
from mergekit_omp.approximation.ridge import USUAL
from mergekit_omp.approximation.shared import Shared
from mergekit_omp.approximation.shares import FEWEST, Shares, choose_shares, spread_by_use
from mergekit_omp.approximation.trend import Trend
from mergekit_omp.pursuit import Code, SparseCode

LOG = logging.getLogger(__name__)

LEAST_LEFT = 0.05
"""Of an anchor's residual, what a regression on as many anchors as features leaves at least."""


# Times of a multiply-add of a large float32 product: `python benchmarks/costs.py --kriging`, on a
# busy Xeon with AMX, 2026-11-26; `SOLVED` by `python benchmarks/large_kriging.py`, 2026-11-27.
READ = 400
"""It takes to read a feature from memory, and to write it."""
COMPARED, COMPARED_BY_FLOATS = 0.25, 1.1
"""It takes to compare a feature with an anchor's, by 8-bit integers and without them."""
DECIDED = 4000
"""For each feature of a token, to decide which of the anchors that remain are the nearest."""
SOLVED = 3
"""In float64, for factors, inverses and solutions."""


class Kriging(Approximation, frozen=True):
    """Ridge regression on all that is known of a token, and its neighbours' residuals.

    The features of a token are its row in the donor, its row in the donor's other matrix, and the
    mean of the base's rows of its pieces; an anchor is cut as if it were no token itself. Residuals
    of the nearest anchors, by cosine in the donor's rows, are interpolated by ordinary kriging.
    With `adapt` two more estimates, from all of the base's tokens, take part as far as anchors
    say that are estimated without themselves.
    """

    name: ClassVar[str] = "kriging"
    reference: ClassVar[str | None] = None
    fit: ClassVar[Fit | None] = PREDICTED_ERROR
    parts: ClassVar[Parts | None] = NEIGHBOURS

    neighbors: Count = Field(
        default=16,
        description="Of how many of the nearest anchors the residuals are used; 0: the regression "
        "alone.",
    )
    ridge: PositiveFloat | None = Field(
        default=None,
        description="Penalty of the regression, relative to the mean variance of a feature. "
        "[default: chosen by generalised cross-validation]",
    )
    head_gain: PositiveFloat = Field(
        default=1.15,
        description="How far rows of the head are moved from the anchors' mean, relative to the "
        "prediction, which is shorter than what it predicts.",
    )
    adapt: bool = Field(
        default=True,
        description="Let anchors, estimated without themselves, say how much of the regression, of "
        "its residuals, of all the base's tokens and of those spelled alike goes into a row.",
    )
    digits: bool = Field(
        default=True,
        description="Move the rows of numbers that the base writes digit by digit towards the "
        "rows of their digits.",
    )

    @property
    def needs(self) -> frozenset[Needs]:
        return frozenset({Needs.DONOR_ROWS, Needs.OTHER_MATRIX, Needs.TEXT})

    @property
    def reads_in_place(self) -> bool:
        return True

    @property
    def in_blocks(self) -> bool:
        return True

    @property
    def repeats_in_blocks(self) -> bool:
        # The regression, and what anchors say of it.
        return True

    def cost(self, sizes: Sizes) -> Cost:
        compared = float(sizes.donor_dim + sizes.other_dim)
        features = compared + sizes.base_dim
        # On and above the diagonal of X'X, and X'Y.
        normal = sizes.anchors * features * (features / 2 + sizes.base_dim)
        normal += sizes.anchors * (features + sizes.base_dim) * READ
        # A factor, its inverse and a solution for each penalty.
        solved = SOLVED * USUAL * (features**3 / 3 + features**2 * sizes.base_dim)
        coarse = worthwhile(torch.device(sizes.device))
        if coarse:
            near = sizes.missing * compared * (sizes.anchors * COMPARED + DECIDED)
            near += sizes.anchors * compared * 2 * READ
        else:
            near = sizes.missing * compared * sizes.anchors * COMPARED_BY_FLOATS
        # A row of the base for each neighbour, and those of its pieces.
        local = sizes.missing * self.neighbors * (compared + 1.5 * sizes.base_dim) * READ
        local += sizes.missing * features * sizes.base_dim
        every = normal + solved + near + local
        held = 8 * features * (features + 3 * sizes.base_dim)
        if coarse:
            held = max(held, sizes.anchors * compared)
        held += 4 * sizes.missing * sizes.base_dim + 2 * WORKING_MEMORY
        if not self.adapt:
            return Cost(every, int(held), shared=near)
        # What it takes where it pays; the donor's rows of tokens that it lacks are made.
        others = max(sizes.base_rows - sizes.anchors, 0)
        compared_with = sizes.base_rows if sizes.other_dim else others
        among = dataclasses.replace(sizes, anchors=compared_with)
        once_more = all_similarities(among).multiply_adds
        every += once_more * (COMPARED if coarse else COMPARED_BY_FLOATS) + local
        return Cost(every, int(held + 4 * others * sizes.donor_dim), shared=near)

    def clamped(self, sizes: Sizes) -> Kriging:
        return self.model_copy(update={"neighbors": min(self.neighbors, sizes.anchors)})

    def approximate(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        base, dtype = problem.base, working_dtype(problem.base)
        progress, missing = problem.inputs.progress, problem.inputs.missing
        donor = DonorFeatures.of(self.name, problem.inputs, base.device)
        in_donor, rows = donor.blocks, donor.anchor_rows
        texts = texts_of(self.name, problem.inputs)
        pieces, of_anchors = texts.shared.of(
            "pieces",
            [rows],
            lambda: (pieces_of_missing(texts), pieces_without_itself(texts, rows.tolist())),
        )
        spelled = FeatureBlock.of(
            MeanRows.of(base, of_anchors), MeanRows.of(base, pieces), progress
        )
        mean = finite_mean_at(base, rows)
        checked, use = spread_by_use(texts, rows)
        checked = checked.to(base.device)
        trend = Trend.fitted(
            in_donor, spelled, base, rows, mean, self.ridge, dtype, progress, checked
        )
        fit, width = trend.fit, len(trend.coefficients)
        problem.inputs.in_force["ridge"] = fit.ridge
        problem.inputs.in_force["neighbors"] = min(self.neighbors, len(rows))
        LOG.debug("kriging: ridge %g of %d features, %d anchors", fit.ridge, width, len(rows))
        search = AnchorSearch(donor, self.neighbors, dtype, texts.shared, progress)
        near = search.of_anchors(checked)
        alone = _Alone.of(near, trend, checked, progress)
        shares, tokens = Shares((1.0, 1.0, 0.0, 0.0), 1.0), None
        if self.adapt and near.count and missing and len(rows) >= FEWEST:
            tokens = AllTokens.of(problem, texts, donor.own, rows, mean.to(dtype))
            shares = alone.shares(tokens, near, use)
            LOG.debug("kriging, %s: %s", problem.part.value, shares)

        result = base.new_empty((missing, base.shape[1]), dtype=dtype)
        bytes_each = dtype.itemsize * (2 * width + 2 * base.shape[1])
        errors = result.new_full((missing,), fit.squared_error * alone.scale * shares.change)
        near = search.of_missing()
        del search
        for part, found in near.weights(progress=progress):
            result[part] = trend.of_missing(part, shares.values[0], found, shares.values[1])
            errors[part] *= found.variances
        if not near.count:
            for part in chunks(missing, bytes_each, progress=progress, label="Rows"):
                result[part] = trend.of_missing(part)
        if tokens is not None and any(shares.values[2:]):
            result.add_(tokens.interpolated(near), alpha=shares.values[2])
            result.add_(tokens.spelled_alike(texts.missing), alpha=shares.values[3])

        for part in chunks(missing, bytes_each):
            errors[part] = predicted_errors(result[part], errors[part])
        problem.inputs.row_fit[PREDICTED_ERROR.key] = errors.where(~donor.blank, 1.0)
        if problem.part != Part.INPUT:
            result *= self.head_gain
        result += mean.to(dtype)
        if self.digits:
            blend_digits(result, base, digit_rows(texts, pieces), problem.part)
        result[donor.blank] = mean_row(base)
        return result

    def made_of(self, problem: MissingRows) -> Code:
        """The neighbours of each missing token, whose residuals are added to the regression."""
        dtype, device = working_dtype(problem.base), problem.base.device
        donor = DonorFeatures.of(self.name, problem.inputs, device)
        texts = problem.inputs.texts
        shared = Shared() if texts is None else texts.shared
        near = AnchorSearch(donor, self.neighbors, dtype, shared).of_missing()
        weights = torch.zeros_like(near.cosines)
        for part, found in near.weights():
            weights[part] = found.weights
        return SparseCode(
            indices=donor.anchor_rows[near.whose],
            coefficients=weights,
            residual_norms=torch.full((len(weights),), torch.nan),
        )


@dataclass(frozen=True, eq=False)
class _Alone:
    """Some anchors, whose rows are estimated without them. All rows are offsets from the mean."""

    which: Int64[Tensor, "checked"]
    true: Float[Tensor, "checked base_dim"]
    trend: Float[Tensor, "checked base_dim"]
    """What a regression without the anchor says of its row."""
    local: Float[Tensor, "checked base_dim"]
    """What its neighbours' residuals say of its own."""
    scale: float
    """What a variance of 1 comes to, over the mean squared residual of all anchors.

    Interpolation takes for granted how residuals go together; here it is found out.
    """

    @classmethod
    def of(
        cls, near: NearestAnchors, trend: Trend, which: Int64[Tensor, "checked"], progress: bool
    ) -> _Alone:
        own = trend.residuals(which)
        local, expected = torch.zeros_like(own), 0.0
        for part, found in near.weights(progress=progress):
            local[part] = trend.mixed_residuals(found)
            expected += found.variances.sum().item()
        expected *= trend.fit.residual
        scale = (own - local).square().sum().item() / expected if expected else 1.0
        left = own / (1 - trend.fit.leverages).clamp_min(LEAST_LEFT).to(own.dtype)[:, None]
        true = anchor_features([trend.rows], which, own.dtype)
        return cls(which, true, true - left, local, scale)

    def shares(
        self, tokens: AllTokens, near: NearestAnchors, use: Float64[Tensor, "checked"]
    ) -> Shares:
        """The shares of the regression, its residuals and the two estimates from all tokens.

        `near` are the anchors' nearest, and `use` what the error of each counts.
        """
        words = [tokens.words[i] for i in self.which.tolist()]
        further = [
            tokens.interpolated(near, self.which),
            tokens.spelled_alike(words, self.which),
        ]
        return choose_shares([self.trend, self.local], further, self.true, use)
