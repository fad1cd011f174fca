"""`knn`: the nearest anchors in the donor's space, weighted (as in `mergekit-tokensurgeon`)."""

from __future__ import annotations

import logging
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from mergekit_omp.approximation.anchors import donor_rows
from mergekit_omp.approximation.base import (
    AnchorCoding,
    CodingInputs,
    Cost,
    Sizes,
    all_similarities,
)
from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.codes import working_dtype
from mergekit_omp.approximation.fit import SIMILARITY, Fit
from mergekit_omp.approximation.parameters import PositiveInt
from mergekit_omp.pursuit import SparseCode

LOG = logging.getLogger(__name__)


class Knn(AnchorCoding, frozen=True):
    """A weighted mean of the `k` nearest anchors, or the least squares fit of the token to them.

    An anchor at distance 0 takes all the weight of `inverse_distance`. Cosine weights may be
    negative; where their sum is not positive, the token is not coded.
    """

    name: ClassVar[str] = "knn"
    reference: ClassVar[str | None] = "https://github.com/arcee-ai/mergekit"
    fit: ClassVar[Fit | None] = SIMILARITY

    k: PositiveInt = Field(default=8, description="How many nearest anchors a token is made of.")
    metric: Literal["euclidean", "cosine"] = Field(
        default="cosine", description="What nearest means."
    )
    weights: Literal["inverse_distance", "cosine", "least_squares"] = Field(
        default="cosine",
        description="How the neighbours are weighted: by the inverse of their distance in "
        "`metric`, by cosine similarity, or as the least squares fit of the token.",
    )

    @property
    def in_blocks(self) -> bool:
        return True

    def cost(self, sizes: Sizes) -> Cost:
        return all_similarities(sizes)

    def clamped(self, sizes: Sizes) -> Knn:
        return self.model_copy(update={"k": min(self.k, sizes.anchors)})

    def encode(self, inputs: CodingInputs) -> SparseCode:
        targets, anchors, rows = donor_rows(self.name, inputs)
        k = inputs.in_force["k"] = min(self.k, len(anchors))
        if k < self.k:
            LOG.warning("knn: k reduced from %d to %d, the number of anchors", self.k, k)
        dtype = working_dtype(targets, anchors)
        anchors = anchors.to(dtype)
        norms = torch.linalg.vector_norm(anchors, dim=1)
        indices = torch.zeros((len(targets), k), dtype=torch.int64, device=targets.device)
        coefficients = targets.new_zeros((len(targets), k), dtype=dtype)
        residuals = targets.new_zeros(len(targets), dtype=dtype)
        alike = targets.new_full((len(targets),), torch.nan, dtype=dtype)
        bytes_each = dtype.itemsize * (3 * len(anchors) + 4 * k * anchors.shape[1])
        for block in chunks(
            len(targets), bytes_each, progress=inputs.progress, label="Nearest anchors"
        ):
            target = targets[block].to(dtype)
            nearest = self._nearest(target, anchors, norms, k)
            points = anchors[nearest]
            weights = self._weights(target, points, norms[nearest])
            weights[~(target != 0).any(1)] = 0
            indices[block] = rows[nearest]
            coefficients[block] = weights
            alike[block] = _cosines(target, points, norms[nearest]).mean(1)
            left = target - (weights[:, None] @ points)[:, 0]
            residuals[block] = torch.linalg.vector_norm(left, dim=1)
        inputs.row_fit[SIMILARITY.key] = alike.where((targets != 0).any(1), torch.nan)
        return SparseCode(indices=indices, coefficients=coefficients, residual_norms=residuals)

    def _nearest(
        self,
        targets: Float[Tensor, "targets dim"],
        anchors: Float[Tensor, "anchors dim"],
        norms: Float[Tensor, "anchors"],
        k: int,
    ) -> Int64[Tensor, "targets k"]:
        closeness = targets @ anchors.T
        if self.metric == "cosine":
            closeness /= norms
        else:
            # |t - a|^2 up to sign and |t|^2, which is the same for all anchors.
            closeness -= norms.square() / 2
        return closeness.topk(k, dim=1).indices

    def _weights(
        self,
        targets: Float[Tensor, "targets dim"],
        points: Float[Tensor, "targets k dim"],
        norms: Float[Tensor, "targets k"],
    ) -> Float[Tensor, "targets k"]:
        if self.weights == "least_squares":
            return _least_squares(targets, points)
        if self.weights == "cosine":
            weights = _cosines(targets, points, norms)
        elif self.metric == "euclidean":
            weights = _inverse(torch.linalg.vector_norm(points - targets[:, None], dim=2))
        else:
            # 1 - cos, free of cancellation: half the squared distance of the unit vectors.
            apart = points / norms[:, :, None] - _units(targets)[:, None]
            weights = _inverse(apart.square().sum(2) / 2)
        total = weights.sum(1, keepdim=True)
        return torch.where(total > 1e-6, weights / total, 0)


def _units(targets: Float[Tensor, "targets dim"]) -> Float[Tensor, "targets dim"]:
    tiny = torch.finfo(targets.dtype).tiny
    return targets / torch.linalg.vector_norm(targets, dim=1, keepdim=True).clamp_min(tiny)


def _cosines(
    targets: Float[Tensor, "targets dim"],
    points: Float[Tensor, "targets k dim"],
    norms: Float[Tensor, "targets k"],
) -> Float[Tensor, "targets k"]:
    return (points @ _units(targets)[:, :, None])[:, :, 0] / norms


def _inverse(distances: Float[Tensor, "targets k"]) -> Float[Tensor, "targets k"]:
    """Inverse distances, up to a factor per target; anchors at distance 0 take all the weight."""
    closest = distances.amin(1, keepdim=True)
    exact = (distances == 0).to(distances.dtype)
    return torch.where(closest == 0, exact, closest / distances)


def _least_squares(
    targets: Float[Tensor, "targets dim"], points: Float[Tensor, "targets k dim"]
) -> Float[Tensor, "targets k"]:
    """The least squares weights of smallest norm, computed in float64."""
    points = points.double()
    gram = points @ points.mT
    right = points @ targets.double()[:, :, None]
    inverse = torch.linalg.pinv(gram, hermitian=True, rtol=1e-12)
    return (inverse @ right)[:, :, 0].to(targets.dtype)
