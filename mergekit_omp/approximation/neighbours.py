"""The nearest anchors of each token by cosine, and weights for them by ordinary kriging.

Ordinary kriging (Matheron 1963; Cressie 1993, section 3.2): the best unbiased linear prediction
of a field whose mean near the token is not known, so that the weights sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.coarse_neighbours import CoarseAnchors, worthwhile
from mergekit_omp.approximation.features import FeatureBlock, anchor_features, missing_features


def units(rows: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """The rows scaled to length 1; rows of zeros stay zero."""
    lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / lengths.clamp_min(torch.finfo(rows.dtype).tiny)


def coarse_anchors(
    blocks: Sequence[FeatureBlock], dtype: torch.dtype, *, progress: bool = False
) -> CoarseAnchors | None:
    """The anchors as 8-bit integers; None where floats are as fast."""
    if not worthwhile(blocks[0].mean.device):
        return None
    return CoarseAnchors.of(
        len(blocks[0].anchors),
        sum(block.dim for block in blocks),
        dtype,
        lambda part: anchor_features(blocks, part, dtype),
        progress,
    )


def nearest_anchors(
    blocks: Sequence[FeatureBlock],
    count: int,
    dtype: torch.dtype,
    *,
    coarse: CoarseAnchors | None,
    least: Float[Tensor, "missing"] | None = None,
    progress: bool = False,
    label: str = "Nearest anchors",
) -> tuple[Float[Tensor, "missing count"], Int64[Tensor, "missing count"]]:
    """Each missing token's `count` largest cosines with anchors, which are at least as many, and the
    anchors' indices.

    `coarse`: the anchors as `coarse_anchors` has them, for as many searches as there are. Cosines
    below `least` are not wanted: -inf, and any anchor, may be in their places.
    """
    missing, device = len(blocks[0].missing), blocks[0].mean.device
    cosines = torch.zeros((missing, count), dtype=dtype, device=device)
    whose = torch.zeros((missing, count), dtype=torch.int64, device=device)
    bytes_each = 3 * dtype.itemsize * sum(block.dim for block in blocks)
    bytes_each += coarse.bytes_each if coarse is not None else 0
    for part in chunks(missing, bytes_each, progress=progress, label=label):
        targets = units(missing_features(blocks, part, dtype))
        if coarse is None:
            cosines[part], whose[part] = _nearest(targets, blocks, count)
        else:
            wanted = None if least is None else least[part]
            cosines[part], whose[part] = nearest_by(coarse, targets, blocks, count, wanted)
    return cosines, whose


def nearest_by(
    coarse: CoarseAnchors,
    targets: Float[Tensor, "targets features"],
    blocks: Sequence[FeatureBlock],
    count: int,
    least: Float[Tensor, "targets"] | None = None,
) -> tuple[Float[Tensor, "targets count"], Int64[Tensor, "targets count"]]:
    """The same as `_nearest`, from the few anchors that may be among the nearest."""
    parts = targets.split([block.dim for block in blocks], dim=1)
    picks, found = coarse.candidates(targets, count, least)
    sizes = found.clamp_min(0)
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    products = [
        block.products(part, picks, bounds) for block, part in zip(blocks, parts, strict=True)
    ]
    each = (torch.stack(products).sum(0) / coarse.lengths[picks]).clamp_(-1, 1)
    places = torch.arange(len(picks)) - bounds[:-1].repeat_interleave(sizes)
    rows = torch.arange(len(targets)).repeat_interleave(sizes)
    table = targets.new_full((len(targets), max(int(sizes.max()), count)), -torch.inf)
    table[rows, places] = each
    cosines, best = table.topk(count, dim=1)
    # Any anchor where there are too few.
    picks = torch.cat([picks, picks.new_zeros(1)])
    whose = picks[bounds[:-1, None] + best.minimum(sizes[:, None])]
    many = (found < 0).nonzero()[:, 0]
    if len(many):
        cosines[many], whose[many] = _nearest(targets[many], blocks, count)
    return cosines, whose


def without_themselves(
    cosines: Float[Tensor, "tokens more"],
    whose: Int64[Tensor, "tokens more"],
    themselves: Int64[Tensor, "tokens"],
) -> tuple[Float[Tensor, "tokens count"], Int64[Tensor, "tokens count"]]:
    """The neighbours but the token itself; but the farthest where it is not among them."""
    own = whose == themselves.to(whose.device)[:, None]
    own[:, -1] |= ~own.any(1)
    shape = len(whose), whose.shape[1] - 1
    return cosines[~own].reshape(shape), whose[~own].reshape(shape)


def _nearest(
    targets: Float[Tensor, "targets features"], blocks: Sequence[FeatureBlock], count: int
) -> tuple[Float[Tensor, "targets count"], Int64[Tensor, "targets count"]]:
    """The largest cosines of `targets` and their anchors, comparing a part of the anchors at a
    time."""
    anchors = len(blocks[0].anchors)
    best = targets.new_empty((len(targets), 0))
    whose = torch.empty((len(targets), 0), dtype=torch.int64, device=targets.device)
    for part in chunks(anchors, targets.dtype.itemsize * 3 * (targets.shape[1] + len(targets))):
        cosines = targets @ units(anchor_features(blocks, part, targets.dtype)).T
        found, places = cosines.topk(min(count, cosines.shape[1]), dim=1)
        best = torch.cat([best, found], dim=1)
        whose = torch.cat([whose, places + part.start], dim=1)
        best, places = best.topk(min(count, best.shape[1]), dim=1)
        whose = whose.gather(1, places)
    return best, whose


def ordinary_kriging(
    cosines: Float[Tensor, "targets neighbours"],
    points: Float[Tensor, "targets neighbours features"],
    length: float,
    noise: float | Float[Tensor, "targets neighbours"],
) -> tuple[Float[Tensor, "targets neighbours"], Float[Tensor, "targets"]]:
    """Weights of each target's neighbours, which sum to 1, and the variance of what they predict.

    The covariance of two tokens at distance d, on the sphere of radius 1, is
    exp(-d²/(2 `length`²)); `noise` is the variance that a token's residual has of its own.
    `points` have length 1. Variances are relative to the one that a token's residual has without
    any neighbours: 1 + `noise`, the least of its neighbours' where each has its own.
    """
    among = torch.exp((points @ points.mT - 1) / length**2)
    among.diagonal(dim1=1, dim2=2).add_(noise)
    towards = torch.exp((cosines - 1) / length**2)
    solved = torch.linalg.solve(among, torch.stack([towards, torch.ones_like(towards)], dim=2))
    simple, ones = solved.unbind(2)
    weights = simple + ones * ((1 - simple.sum(1)) / ones.sum(1))[:, None]
    spread = (weights[:, None] @ among @ weights[:, :, None])[:, 0, 0]
    own = noise.amin(1) if isinstance(noise, Tensor) else noise
    variances = 1 + own - 2 * (weights * towards).sum(1) + spread
    return weights, variances / (1 + own)
