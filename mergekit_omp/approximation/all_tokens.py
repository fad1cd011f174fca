"""Two estimates of a row from all tokens of the base, those that the donor lacks too.

One reads the donor's rows, the other how tokens are spelled. `kriging` uses them as far as hidden
anchors say (`shares`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from mergekit_omp.approximation.anchors import usable_rows
from mergekit_omp.approximation.base import MissingRows, Texts
from mergekit_omp.approximation.base_tokens import donor_vectors, emitted_rows
from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.features import FeatureBlock, FeatureRows, anchor_features
from mergekit_omp.approximation.moments import finite_rows
from mergekit_omp.approximation.neighbours import (
    coarse_anchors,
    nearest_anchors,
    ordinary_kriging,
    units,
)
from mergekit_omp.approximation.spelling import nearest_by_spelling

LENGTH = 1.0
"""As for residuals: exp(-1) is the correlation at a cosine of 0."""
NOISE, NOISE_OF_COMPOSED = 0.3, 1.0
"""Variance of a token's own, of anchors and of tokens that the donor lacks, whose row in the donor
is the mean of their pieces'."""
SPELLED_ALIKE, TEMPERATURE = 10, 0.1
"""How many tokens of like spelling are averaged, and the temperature of their softmax."""


def from_all_tokens(
    problem: MissingRows,
    texts: Texts,
    block: FeatureBlock,
    mean: Float[Tensor, "base_dim"],
    neighbors: int,
) -> Iterator[Float[Tensor, "missing base_dim"]]:
    """Offsets of the missing rows from `mean`: what the tokens nearest in the donor's space say,
    and then what those say that are spelled most alike.

    `block` holds the features of anchors and missing tokens from the matrix that the donor's
    rows are from.
    """
    base, device, dtype = problem.base, problem.base.device, mean.dtype
    candidates = emitted_rows(texts, problem.inputs.anchor_rows)
    index = torch.tensor(candidates, dtype=torch.int64)
    vectors = donor_vectors(problem.inputs, texts, index).to(device)
    index = index.to(device)
    usable = usable_rows(vectors) & finite_rows(base[index])
    index, vectors = index[usable], vectors[usable]
    offsets = base[index].to(dtype) - mean
    near = dataclasses.replace(block, anchors=FeatureRows.all_finite(vectors))
    shared = torch.isin(index, problem.inputs.anchor_rows.to(device))
    noise = torch.where(shared, NOISE, NOISE_OF_COMPOSED).to(dtype)
    yield _interpolated(offsets, near, noise, min(neighbors, len(index)))
    yield _spelled_alike(offsets, texts, index.tolist())


def _interpolated(
    offsets: Float[Tensor, "tokens base_dim"],
    block: FeatureBlock,
    noise: Float[Tensor, "tokens"],
    count: int,
) -> Float[Tensor, "missing base_dim"]:
    coarse = coarse_anchors([block], offsets.dtype)
    cosines, whose = nearest_anchors([block], count, offsets.dtype, coarse=coarse)
    result = offsets.new_empty((len(whose), offsets.shape[1]))
    bytes_each = offsets.itemsize * (2 * count * (block.dim + offsets.shape[1]) + 3 * count**2)
    for part in chunks(len(whose), bytes_each):
        points = units(anchor_features([block], whose[part].flatten(), offsets.dtype))
        points = points.reshape(-1, count, block.dim)
        weights, _ = ordinary_kriging(cosines[part], points, LENGTH, noise[whose[part]])
        result[part] = (weights[:, None] @ offsets[whose[part]])[:, 0]
    return result


def _spelled_alike(
    offsets: Float[Tensor, "tokens base_dim"], texts: Texts, rows: list[int]
) -> Float[Tensor, "missing base_dim"]:
    count = min(SPELLED_ALIKE, len(rows))
    among = [texts.base[row] or b"" for row in rows]
    cosines, whose = nearest_by_spelling(texts.missing, among, count)
    weights = torch.softmax(cosines / TEMPERATURE, dim=1).where(cosines > 0, 0)
    weights, whose = weights.to(offsets), whose.to(offsets.device)
    result = offsets.new_empty((len(whose), offsets.shape[1]))
    for part in chunks(len(result), 2 * offsets.itemsize * count * offsets.shape[1]):
        result[part] = (weights[part][:, None] @ offsets[whose[part]])[:, 0]
    return result
