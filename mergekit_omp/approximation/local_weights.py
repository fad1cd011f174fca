"""Ordinary kriging of many tokens on a CPU, one after another, whose neighbours stay in a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mergekit_omp.approximation.features import FeatureBlock, FeatureRows
from mergekit_omp.kernels.compiled import kernel
from mergekit_omp.kernels.threads import in_threads
from mergekit_omp.pursuit.tiles import dot

ROOM = 2**20
"""Bytes of neighbours' features that are read at a time."""

Read = Callable[[slice, Float[np.ndarray, "neighbours width"]], None]
"""Writes the features of the neighbours of some tokens, one token's after another's."""


def anchors_reader(
    blocks: Sequence[FeatureBlock], whose: Int64[Tensor, "tokens count"], dtype: torch.dtype
) -> Read:
    """Reads the features of each token's `count` anchors, the blocks side by side."""
    parts = [
        (block.features_of(block.anchors.matrix, dtype), block.anchors.indices[whose].numpy())
        for block in blocks
        if isinstance(block.anchors, FeatureRows)
    ]

    def read(some: slice, to: Float[np.ndarray, "neighbours width"]) -> None:
        start = 0
        for features, rows in parts:
            features.write(rows[some].reshape(-1), to, start)
            start += len(features.mean)

    return read


def local_weights(
    read: Read,
    cosines: Float[Tensor, "tokens count"],
    width: int,
    length: float,
    noise: Float[Tensor, "tokens count"],
) -> tuple[Float[Tensor, "tokens count"], Float[Tensor, "tokens"], Float[Tensor, "tokens width"]]:
    """The weights and variances of `neighbours.ordinary_kriging`, and so mixed features.

    `read` is called in several threads; features need not have length 1.
    """
    tokens, count = cosines.shape
    weights, variances = torch.empty_like(cosines), cosines.new_empty(tokens)
    mixed = cosines.new_empty((tokens, width))
    given = cosines.numpy(), noise.numpy()
    out = weights.numpy(), variances.numpy(), mixed.numpy()
    few = max(1, ROOM // (cosines.itemsize * count * width))

    def work(first: int, last: int) -> None:
        room = np.empty((min(few, last - first), count, width), out[0].dtype)
        for at in range(first, last, few):
            part = slice(at, min(at + few, last))
            features = room[: part.stop - at]
            read(part, features.reshape(-1, width))
            krige(
                features, length, *(values[part] for values in given), *(rows[part] for rows in out)
            )

    in_threads(work, tokens, few)
    return weights, variances, mixed


@kernel
def krige(
    features: Float[np.ndarray, "tokens count width"],
    length: float,
    cosines: Float[np.ndarray, "tokens count"],
    noise: Float[np.ndarray, "tokens count"],
    weights: Float[np.ndarray, "tokens count"],
    variances: Float[np.ndarray, "tokens"],
    mixed: Float[np.ndarray, "tokens width"],
) -> None:
    """Writes weights, variances and sums of features of all tokens."""
    count, square = features.shape[1], length**2
    # Covariances on and above the diagonal, their Cholesky factor below and in `pivots`.
    among = np.empty((count, count))
    pivots, lengths = np.empty(count), np.empty(count)
    towards, simple, ones = np.empty(count), np.empty(count), np.empty(count)
    for token in range(features.shape[0]):
        points = features[token]
        for i in range(count):
            lengths[i] = np.sqrt(dot(points[i], points[i]))
            towards[i] = np.exp((cosines[token, i] - 1) / square)
            for j in range(i):
                scale = lengths[i] * lengths[j]
                cosine = dot(points[i], points[j]) / scale if scale > 0 else 0.0
                among[j, i] = np.exp((cosine - 1) / square)
            own = 1.0 if lengths[i] > 0 else np.exp(-1 / square)
            among[i, i] = own + noise[token, i]
        for i in range(count):
            for j in range(i + 1):
                left = among[j, i]
                for x in range(j):
                    left -= among[i, x] * among[j, x] if j < i else among[i, x] ** 2
                if j < i:
                    among[i, j] = left / pivots[j]
                else:
                    pivots[i] = np.sqrt(left)
        for i in range(count):
            a, b = towards[i], 1.0
            for x in range(i):
                a -= among[i, x] * simple[x]
                b -= among[i, x] * ones[x]
            simple[i], ones[i] = a / pivots[i], b / pivots[i]
        for i in range(count - 1, -1, -1):
            a, b = simple[i], ones[i]
            for x in range(i + 1, count):
                a -= among[x, i] * simple[x]
                b -= among[x, i] * ones[x]
            simple[i], ones[i] = a / pivots[i], b / pivots[i]
        more = (1 - simple.sum()) / ones.sum()
        spread, toward, least = 0.0, 0.0, noise[token, 0]
        for i in range(count):
            simple[i] += more * ones[i]
            weights[token, i] = simple[i]
            least = min(least, noise[token, i])
        for i in range(count):
            toward += simple[i] * towards[i]
            spread += simple[i] ** 2 * among[i, i]
            for j in range(i):
                spread += 2 * simple[i] * simple[j] * among[j, i]
        variances[token] = (1 + least - 2 * toward + spread) / (1 + least)
        out = mixed[token]
        for x in range(out.shape[0]):
            out[x] = 0
        for i in range(count):
            point, weight = points[i], weights[token, i]
            for x in range(out.shape[0]):
                out[x] += weight * point[x]
