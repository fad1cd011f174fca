"""Sparsemax (Martins & Astudillo 2016, arXiv 1602.02068) for rows that are very long."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def sparsemax_threshold(scores: Float[Tensor, "rows scores"]) -> Float[Tensor, "rows 1"]:
    """The t of each row for which the sum of max(scores - t, 0) is 1; that is its sparsemax.

    Newton's method from max - 1, where the sum is at least 1. The sum is convex and piecewise
    linear in t, so the steps rise and end at the solution after finitely many; no sorting.
    """
    top = scores.amax(1, keepdim=True)
    scores = scores - top
    threshold = -torch.ones_like(top)
    support = torch.zeros_like(top, dtype=torch.int64)
    while True:
        excess = (scores - threshold).clamp_min_(0)
        size = excess.count_nonzero(1)[:, None]
        threshold += (excess.sum(1, keepdim=True) - 1) / size
        if torch.equal(size, support):
            return top + threshold
        support = size


def sparsemax(scores: Float[Tensor, "rows scores"]) -> Float[Tensor, "rows scores"]:
    """The probabilities nearest to each row: its projection on the simplex."""
    return (scores - sparsemax_threshold(scores)).clamp_min_(0)
