"""What is known of a token, as numbers: blocks of features, each centred and of unit mean square.

A block reads the rows of one matrix. Features are never built for all tokens at once, but for a
part of them whenever they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

from mergekit_omp.approximation.chunks import strips
from mergekit_omp.approximation.dots import ragged_products
from mergekit_omp.approximation.moments import finite_rows
from mergekit_omp.approximation.reading import Features, readable, sums_of_rows


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

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def known(self) -> Bool[Tensor, "tokens"]:
        """Which tokens have a row."""
        return self.indices >= 0

    def read(self, tokens: Int64[Tensor, "some"], dtype: torch.dtype) -> Float[Tensor, "some dim"]:
        """Their rows; anything for a token without one."""
        return self.matrix[self.indices[tokens].clamp_min(0)].to(dtype)

    def mixed(
        self, tokens: Int64[Tensor, "mixes count"], weights: Float[Tensor, "mixes count"]
    ) -> Float[Tensor, "mixes dim"]:
        """Weighted sums of the rows of `count` tokens; those without one add nothing."""
        known = self.indices[tokens.flatten()] >= 0
        if readable(self.matrix, weights.dtype):
            bounds = torch.arange(len(tokens) + 1) * tokens.shape[1]
            rows = self.indices[tokens.flatten()]
            ends = torch.cat([known.new_zeros(1, dtype=torch.int64), known.cumsum(0)])
            return sums_of_rows(
                self.matrix, rows[known], ends[bounds], weights.flatten()[known].contiguous()
            )
        rows = self.read(tokens.flatten(), weights.dtype)
        if not known.all():
            rows[~known] = 0
        return (weights[:, None] @ rows.reshape(*tokens.shape, -1))[:, 0]


@dataclass(frozen=True, eq=False)
class MeanRows:
    """The mean of some rows of a matrix for each token; a token may have none."""

    matrix: Float[Tensor, "rows dim"]
    rows: Int64[Tensor, "pieces"]
    """Those of all tokens, one after another."""
    bounds: Int64[Tensor, "boundaries"]
    """Where each token's begin, and where the last one's end."""

    @classmethod
    def of(cls, matrix: Float[Tensor, "rows dim"], rows: Sequence[Sequence[int]]) -> MeanRows:
        """From the rows of each token, of which those count that are there and finite."""
        flat = torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int64)
        ends = torch.tensor(list(accumulate(map(len, rows), initial=0)))
        usable = flat < len(matrix)
        usable[usable.clone()] = finite_rows(matrix).cpu()[flat[usable]]
        before = torch.cat([torch.zeros(1, dtype=torch.int64), usable.cumsum(0)])
        return cls(matrix, flat[usable].to(matrix.device), before[ends].to(matrix.device))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def known(self) -> Bool[Tensor, "tokens"]:
        return self.bounds.diff() > 0

    def read(self, tokens: Int64[Tensor, "some"], dtype: torch.dtype) -> Float[Tensor, "some dim"]:
        weights = torch.ones(len(tokens), dtype=dtype, device=tokens.device)
        return self.mixed(tokens[:, None], weights[:, None])

    def mixed(
        self, tokens: Int64[Tensor, "mixes count"], weights: Float[Tensor, "mixes count"]
    ) -> Float[Tensor, "mixes dim"]:
        flat = tokens.flatten()
        sizes = self.bounds.diff()[flat]
        ends = sizes.cumsum(0)
        places = torch.arange(int(sizes.sum()), device=sizes.device)
        if not len(places):
            return weights.new_zeros((len(tokens), self.matrix.shape[1]))
        places += (self.bounds[flat] - ends + sizes).repeat_interleave(sizes)
        rows, starts = self.rows[places], (ends - sizes)[:: tokens.shape[1]]
        each = (weights.flatten() / sizes).repeat_interleave(sizes)
        if readable(self.matrix, weights.dtype):
            return sums_of_rows(self.matrix, rows, torch.cat([starts, ends[-1:]]), each)
        return functional.embedding_bag(
            torch.arange(len(places), device=places.device),
            self.matrix[rows].to(weights.dtype),
            starts,
            mode="sum",
            per_sample_weights=each,
        )


@dataclass(frozen=True, eq=False)
class FeatureBlock:
    """The rows of anchors and missing tokens, with the anchors' mean and mean length.

    A token without a row counts as one at the mean: its features are 0.
    """

    anchors: FeatureRows | MeanRows
    missing: FeatureRows | MeanRows
    mean: Float64[Tensor, "dim"]
    length: float
    """Root mean square of the anchors' distances from their mean; 1 if they are all alike."""

    @classmethod
    def of(
        cls,
        anchors: FeatureRows | MeanRows,
        missing: FeatureRows | MeanRows,
        progress: bool = False,
    ) -> FeatureBlock:
        matrix = anchors.matrix
        tokens = anchors.known.nonzero()[:, 0]
        dim, count = matrix.shape[1], max(len(tokens), 1)
        # From the first row, so that a variance is not the difference of two large numbers.
        first = torch.zeros(dim, dtype=torch.float64, device=matrix.device)
        if len(tokens):
            first = anchors.read(tokens[:1], torch.float64)[0]
        mean = torch.zeros_like(first)
        square = 0.0
        for part in strips(len(tokens), 24 * dim, progress=progress, label="Features"):
            offsets = anchors.read(tokens[part], torch.float64) - first
            mean += offsets.sum(0)
            square += torch.linalg.vector_norm(offsets).square().item()
        mean /= count
        variance = square / count - torch.linalg.vector_norm(mean).square().item()
        return cls(anchors, missing, first + mean, max(variance, 0.0) ** 0.5 or 1.0)

    def anchors_as_missing(self, some: Int64[Tensor, "some"]) -> FeatureBlock:
        """The block with some of the anchors in the place of the missing tokens."""
        assert isinstance(self.anchors, FeatureRows)
        rows = FeatureRows(self.anchors.matrix, self.anchors.indices[some.to(self.mean.device)])
        return replace(self, missing=rows)

    @property
    def dim(self) -> int:
        return self.anchors.matrix.shape[1]

    def write(
        self,
        rows: FeatureRows | MeanRows,
        tokens: Int64[Tensor, "part"],
        to: Float[Tensor, "part width"],
        start: int = 0,
    ) -> None:
        """Writes the features of some tokens, whose rows are `rows` (anchors or missing tokens), to
        the columns from `start` on."""
        if isinstance(rows, FeatureRows) and readable(rows.matrix, to.dtype):
            features = self.features_of(rows.matrix, to.dtype)
            features.write_in_threads(rows.indices[tokens], to, start)
            return
        mean, known = self.mean.to(to.dtype), rows.known[tokens]
        out = to[:, start : start + self.dim]
        for part in strips(len(tokens), 3 * to.itemsize * self.dim):
            some = out[part]
            torch.sub(rows.read(tokens[part], to.dtype), mean, out=some)
            some /= self.length
            some.masked_fill_(~known[part, None], 0)

    def readable(self, dtype: torch.dtype) -> bool:
        """Whether `reading` reads the anchors' rows."""
        return isinstance(self.anchors, FeatureRows) and readable(self.anchors.matrix, dtype)

    def features_of(self, matrix: Float[Tensor, "rows dim"], dtype: torch.dtype) -> Features:
        """What makes features of the rows of a readable matrix."""
        return Features.of(matrix, self.mean.to(dtype), self.length)

    def products(
        self,
        vectors: Float[Tensor, "vectors dim"],
        anchors: Int64[Tensor, "pairs"],
        bounds: Int64[Tensor, "boundaries"],
    ) -> Float[Tensor, "pairs"]:
        """Inner products, on a CPU, of vector i and the features of the anchors from place
        `bounds[i]` to `bounds[i + 1]`."""
        assert isinstance(self.anchors, FeatureRows)
        indices = self.anchors.indices[anchors]
        found = ragged_products(vectors, self.anchors.matrix, indices.clamp_min(0), bounds)
        found -= (vectors @ self.mean.to(vectors.dtype)).repeat_interleave(bounds.diff())
        return (found / self.length).where(indices >= 0, 0)

    def mixed(
        self, anchors: Int64[Tensor, "tokens count"], weights: Float[Tensor, "tokens count"]
    ) -> Float[Tensor, "tokens dim"]:
        """For each token the weighted sum of the features of `count` anchors."""
        result = weights.new_empty((len(anchors), self.dim))
        known, mean = self.anchors.known, self.mean.to(weights.dtype)
        for part in strips(len(anchors), 2 * anchors.shape[1] * weights.itemsize * self.dim):
            counted = (weights[part] * known[anchors[part]]).sum(1, keepdim=True)
            result[part] = self.anchors.mixed(anchors[part], weights[part]) - counted * mean
        return result.div_(self.length)


def anchor_features(
    blocks: Sequence[FeatureBlock], part: slice | Int64[Tensor, "part"], dtype: torch.dtype
) -> Float[Tensor, "part features"]:
    """Features of the anchors in `part`, the blocks side by side."""
    return _side_by_side(blocks, [block.anchors for block in blocks], part, dtype)


def missing_features(
    blocks: Sequence[FeatureBlock], part: slice, dtype: torch.dtype
) -> Float[Tensor, "part features"]:
    """Features of the missing tokens in `part`, the blocks side by side."""
    return _side_by_side(blocks, [block.missing for block in blocks], part, dtype)


def _side_by_side(
    blocks: Sequence[FeatureBlock],
    rows: Sequence[FeatureRows | MeanRows],
    part: slice | Int64[Tensor, "part"],
    dtype: torch.dtype,
) -> Float[Tensor, "part features"]:
    device = blocks[0].mean.device
    tokens = torch.arange(len(rows[0]), device=device)[part] if isinstance(part, slice) else part
    width = sum(block.dim for block in blocks)
    result = torch.empty((len(tokens), width), dtype=dtype, device=device)
    start = 0
    for block, some in zip(blocks, rows, strict=True):
        block.write(some, tokens, result, start)
        start += block.dim
    return result
