"""Two estimates of a row from all tokens of the base, those that the donor lacks too.

One reads the donor's rows, the other how tokens are spelled. `kriging` uses them as far as anchors
say that are estimated without themselves (`shares`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mergekit_omp.approximation.anchors import usable_rows
from mergekit_omp.approximation.base import MissingRows, Texts
from mergekit_omp.approximation.base_tokens import donor_vectors, emitted_rows
from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.coarse_neighbours import CoarseAnchors
from mergekit_omp.approximation.features import FeatureBlock, FeatureRows, anchor_features
from mergekit_omp.approximation.interpolation import LENGTH, NOISE, NearestAnchors
from mergekit_omp.approximation.local_weights import Read, local_weights
from mergekit_omp.approximation.moments import finite_rows
from mergekit_omp.approximation.neighbours import (
    coarse_anchors,
    nearest_anchors,
    ordinary_kriging,
    units,
)
from mergekit_omp.approximation.reading import readable, sums_of_rows
from mergekit_omp.approximation.spelling import Spellings

NOISE_OF_COMPOSED = 1.0
"""Variance of its own of a token that the donor lacks, whose row in the donor is the mean of its
pieces'; that of an anchor is as for residuals."""
SPELLED_ALIKE, TEMPERATURE = 10, 0.1
"""How many tokens of like spelling are averaged, and the temperature of their softmax."""


@dataclass(frozen=True, eq=False)
class AllTokens:
    """The base's tokens: first the anchors, then those that the donor lacks, if its matrix is
    there as a whole."""

    base: Float[Tensor, "base_rows base_dim"]
    mean: Float[Tensor, "base_dim"]
    rows: Int64[Tensor, "tokens"]
    """Each token's row of `base`."""
    anchors: FeatureBlock
    others: FeatureBlock
    """Features of the tokens that the donor lacks, in the place of the anchors'."""
    texts: Texts
    progress: bool

    @classmethod
    def of(
        cls,
        problem: MissingRows,
        texts: Texts,
        block: FeatureBlock,
        anchor_rows: Int64[Tensor, "anchors"],
        mean: Float[Tensor, "base_dim"],
    ) -> AllTokens:
        """`block` holds the features of anchors and missing tokens from the matrix that the donor's
        rows are from; `anchor_rows` are the anchors' rows of the base."""
        inputs, base = problem.inputs, problem.base
        index = torch.empty(0, dtype=torch.int64)
        vectors = base.new_empty((0, block.dim))
        if inputs.donor is not None:
            shared = set(inputs.anchor_rows.tolist())
            emitted = emitted_rows(texts, inputs.anchor_rows)
            index = torch.tensor([row for row in emitted if row not in shared], dtype=torch.int64)
            vectors = donor_vectors(inputs, texts, index)
        index, vectors = index.to(base.device), vectors.to(base.device)
        usable = usable_rows(vectors) & finite_rows(base[index])
        return cls(
            base=base,
            mean=mean,
            rows=torch.cat([anchor_rows, index[usable]]),
            anchors=block,
            others=dataclasses.replace(block, anchors=FeatureRows.all_finite(vectors[usable])),
            texts=texts,
            progress=inputs.progress,
        )

    def interpolated(
        self, near: NearestAnchors, themselves: Int64[Tensor, "asked"] | None = None
    ) -> Float[Tensor, "asked base_dim"]:
        """Offsets of rows from `mean`, from those of the tokens nearest in the donor's space.

        `near` are the nearest anchors of the tokens that are asked for; `themselves` are their
        indices where they are anchors.
        """
        dtype, anchors, count = self.mean.dtype, len(self.anchors.anchors), near.count
        block = self.anchors
        if themselves is not None:
            block = block.anchors_as_missing(themselves)
        if len(near.blocks) > 1:
            near = NearestAnchors.of(
                [block],
                count,
                dtype,
                coarse=self._coarse_anchors,
                progress=self.progress,
                themselves=themselves,
            )
        cosines, whose = near.cosines, near.whose
        if others := min(count, len(self.rows) - anchors):
            block = dataclasses.replace(block, anchors=self.others.anchors)
            closest, which = nearest_anchors(
                [block],
                others,
                dtype,
                coarse=self._coarse_others,
                least=cosines[:, -1],
                progress=self.progress,
                label="Nearest of the others",
            )
            cosines, places = torch.cat([cosines, closest], dim=1).topk(count, dim=1)
            whose = torch.cat([whose, which + anchors], dim=1).gather(1, places)
        result = self.mean.new_empty((len(whose), len(self.mean)))
        compiled = block.readable(dtype) and self.anchors.readable(dtype)
        bytes_each = dtype.itemsize * (
            3 * count * (self.others.dim + len(self.mean)) + 3 * count**2
        )
        for part in chunks(len(whose), bytes_each, progress=self.progress, label="All tokens"):
            composed = whose[part] >= anchors
            noise = torch.where(composed, NOISE_OF_COMPOSED, NOISE).to(dtype)
            if compiled:
                read = self._reader(whose[part])
                weights, _, _ = local_weights(read, cosines[part], block.dim, LENGTH, noise)
            else:
                points = units(self._features(whose[part].flatten()))
                points = points.reshape(-1, count, self.others.dim)
                weights, _ = ordinary_kriging(cosines[part], points, LENGTH, noise)
            result[part] = self._sums(weights, whose[part])
        return result

    def spelled_alike(
        self,
        words: Sequence[bytes | None],
        themselves: Int64[Tensor, "words"] | None = None,
    ) -> Float[Tensor, "words base_dim"]:
        """Offsets of rows from `mean`, from those of the tokens that are spelled most like them.

        `themselves` are indices of the words among the anchors, where they are anchors.
        """
        count = min(SPELLED_ALIKE, len(self.rows))
        given = [self.rows, *([] if themselves is None else [themselves])]
        name = f"spelled alike, {themselves is not None}"
        cosines, whose = self.texts.shared.of(
            name, given, lambda: self._spellings.nearest(words, count, themselves)
        )
        weights = torch.softmax(cosines / TEMPERATURE, dim=1).where(cosines > 0, 0)
        weights, whose = weights.to(self.mean), whose.to(self.mean.device)
        result = self.mean.new_empty((len(whose), len(self.mean)))
        for part in chunks(len(result), 2 * result.itemsize * count * len(self.mean)):
            result[part] = self._sums(weights[part], whose[part])
        return result

    @cached_property
    def _coarse_anchors(self) -> CoarseAnchors | None:
        return coarse_anchors([self.anchors], self.mean.dtype)

    @cached_property
    def _coarse_others(self) -> CoarseAnchors | None:
        return coarse_anchors([self.others], self.mean.dtype)

    @cached_property
    def words(self) -> list[bytes]:
        return [self.texts.base[row] or b"" for row in self.rows.tolist()]

    @cached_property
    def _spellings(self) -> Spellings:
        return self.texts.once(("spellings", *self.words), lambda: Spellings(self.words))

    def _features(self, whose: Int64[Tensor, "some"]) -> Float[Tensor, "some dim"]:
        dtype, anchors = self.mean.dtype, len(self.anchors.anchors)
        found = self.mean.new_empty((len(whose), self.anchors.dim))
        shared = whose < anchors
        found[shared] = anchor_features([self.anchors], whose[shared], dtype)
        found[~shared] = anchor_features([self.others], whose[~shared] - anchors, dtype)
        return found

    def _reader(self, whose: Int64[Tensor, "some count"]) -> Read:
        dtype, anchors = self.mean.dtype, len(self.anchors.anchors)
        assert isinstance(self.anchors.anchors, FeatureRows)
        assert isinstance(self.others.anchors, FeatureRows)
        shared, own = whose < anchors, self.anchors.anchors
        rows = own.indices[whose.clamp_max(anchors - 1)].where(shared, -1).numpy()
        others = (whose - anchors).where(~shared, -1).numpy()
        features = self.anchors.features_of(own.matrix, dtype)
        of_others = self.others.features_of(self.others.anchors.matrix, dtype)

        def read(some: slice, to: Float[np.ndarray, "neighbours width"]) -> None:
            of_others.write(others[some].reshape(-1), to)
            features.write(rows[some].reshape(-1), to, blank=False)

        return read

    def _sums(
        self, weights: Float[Tensor, "some count"], whose: Int64[Tensor, "some count"]
    ) -> Float[Tensor, "some base_dim"]:
        if readable(self.base, weights.dtype):
            rows, bounds = self.rows[whose].flatten(), torch.arange(len(whose) + 1) * whose.shape[1]
            sums = sums_of_rows(self.base, rows, bounds, weights.flatten())
            return sums - weights.sum(1, keepdim=True) * self.mean
        offsets = self.base[self.rows[whose]].to(weights.dtype) - self.mean
        return (weights[:, None] @ offsets)[:, 0]
