"""What is known of a token, as numbers: blocks of features, each centred and of unit mean square.

A block reads the rows of one matrix. Features are never built for all tokens at once, but for a
part of them whenever they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.moments import finite_rows


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """A row of a matrix for each token; `indices` is -1 for a token that has none."""

    matrix: Float[Tensor, "rows dim"]
    indices: Int64[Tensor, "tokens"]

    @classmethod
    def all_finite(cls, matrix: Float[Tensor, "tokens dim"]) -> FeatureRows:
        """One token for each row of `matrix`; tokens whose row is not finite have none."""
        indices = torch.arange(len(matrix), device=matrix.device)
        return cls(matrix, indices.where(finite_rows(matrix), -1))


@dataclass(frozen=True, eq=False)
class FeatureBlock:
    """The rows of anchors and missing tokens, with the anchors' mean and mean length.

    A token without a row counts as one at the mean: its features are 0.
    """

    anchors: FeatureRows
    missing: FeatureRows
    mean: Float64[Tensor, "dim"]
    length: float
    """Root mean square of the anchors' distances from their mean; 1 if they are all alike."""

    @classmethod
    def of(cls, anchors: FeatureRows, missing: FeatureRows) -> FeatureBlock:
        matrix = anchors.matrix
        known = anchors.indices[anchors.indices >= 0]
        count, dim = max(len(known), 1), matrix.shape[1]
        mean = torch.zeros(dim, dtype=torch.float64, device=matrix.device)
        square = 0.0
        for part in chunks(len(known), 24 * dim):
            mean += matrix[known[part]].double().sum(0)
        mean /= count
        for part in chunks(len(known), 24 * dim):
            square += (matrix[known[part]].double() - mean).square().sum().item()
        return cls(anchors, missing, mean, (square / count) ** 0.5 or 1.0)

    def anchors_as_missing(self, some: Int64[Tensor, "some"]) -> FeatureBlock:
        """The block with some of the anchors in the place of the missing tokens."""
        rows = FeatureRows(self.anchors.matrix, self.anchors.indices[some.to(self.mean.device)])
        return replace(self, missing=rows)

    @property
    def dim(self) -> int:
        return self.anchors.matrix.shape[1]

    def values(
        self, rows: FeatureRows, part: slice | Int64[Tensor, "part"], dtype: torch.dtype
    ) -> Float[Tensor, "part dim"]:
        """Features of the tokens in `part`, whose rows are `rows` (anchors or missing tokens)."""
        indices = rows.indices[part]
        found = rows.matrix[indices.clamp_min(0)].to(dtype) - self.mean.to(dtype)
        found *= (indices >= 0)[:, None] / self.length
        return found

    def products(
        self, anchors: Int64[Tensor, "some"], vector: Float[Tensor, "dim"]
    ) -> Float[Tensor, "some"]:
        """Inner products of a vector with the features of some anchors."""
        indices = self.anchors.indices[anchors]
        found = self.anchors.matrix[indices.clamp_min(0)].to(vector.dtype) @ vector
        found -= self.mean.to(vector.dtype) @ vector
        return found * (indices >= 0) / self.length


def anchor_features(
    blocks: Sequence[FeatureBlock], part: slice | Int64[Tensor, "part"], dtype: torch.dtype
) -> Float[Tensor, "part features"]:
    """Features of the anchors in `part`, the blocks side by side."""
    return torch.cat([block.values(block.anchors, part, dtype) for block in blocks], dim=1)


def missing_features(
    blocks: Sequence[FeatureBlock], part: slice, dtype: torch.dtype
) -> Float[Tensor, "part features"]:
    """Features of the missing tokens in `part`, the blocks side by side."""
    return torch.cat([block.values(block.missing, part, dtype) for block in blocks], dim=1)
