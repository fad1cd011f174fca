"""How much of each estimate goes into a row: what anchors say that take no part in their own.

Stacking (Wolpert 1992; Breiman 1996): weights of several estimates, none of them negative, that
minimise the squared error on rows which the estimates did not see. The weights are drawn towards
those that are used without evidence, so that they move only as far as the evidence pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from mergekit_omp.approximation.base import Texts
from mergekit_omp.approximation.chunks import strips

CHECKED = 1500
"""Anchors at most whose rows are estimated as if they had none."""
FEWEST = 400
"""With fewer anchors shares do not move, since they would tell too little."""
ROUNDING = 1e-11
"""Next to the squares of the rows, an error that cannot be told from none."""
PULL = 0.1
"""How far the error may rise, relative to itself, for weights to stay at a distance of 1."""
WORTH = 0.01
"""By how much, relative to itself, the error has to fall for further estimates to take part."""
HEAD_OF_ZIPF = 300
"""Use is taken to fall as 1 / (id in the donor's vocabulary + this)."""


def spread_by_use(
    texts: Texts, anchor_rows: Int64[Tensor, "anchors"]
) -> tuple[Int64[Tensor, "checked"], Float64[Tensor, "checked"]]:
    """Anchors at even distances in the donor's vocabulary, and how often text uses each."""
    found = anchor_rows.tolist()
    return texts.once(("spread", *found), lambda: _spread(texts, found))


def _spread(
    texts: Texts, anchor_rows: Sequence[int]
) -> tuple[Int64[Tensor, "checked"], Float64[Tensor, "checked"]]:
    of_text = {text: i for i, text in reversed(list(enumerate(texts.donor))) if text is not None}
    ids = torch.tensor([of_text.get(texts.base[row] or b"", len(of_text)) for row in anchor_rows])
    order = ids.argsort(stable=True)
    count = min(CHECKED, len(order))
    chosen = order[torch.arange(count) * len(order) // max(count, 1)]
    return chosen, 1 / (ids[chosen].double() + HEAD_OF_ZIPF)


@dataclass(frozen=True)
class Shares:
    """How much of each estimate goes into a row."""

    values: tuple[float, ...]
    change: float
    """The squared error that is left, over that without evidence."""


def choose_shares(
    usual: Sequence[Float[Tensor, "checked base_dim"]],
    further: Sequence[Float[Tensor, "checked base_dim"]],
    true: Float[Tensor, "checked base_dim"],
    use: Float64[Tensor, "checked"],
) -> Shares:
    """Those of `usual` estimates and of `further` ones, where these are worth it; else 1 and 0.

    Shares of the usual estimates alone would lower the error too, and language models lose by it.
    """
    start = [*[1.0] * len(usual), *[0.0] * len(further)]
    every = products([*usual, *further, true], use)
    shares, few = fit_shares(every, start), [*range(len(usual)), -1]
    alone = every[np.ix_(few, few)]
    without = squared_error(alone, fit_shares(alone, start[: len(usual)]))
    # Errors that are differences of larger numbers: below this share of them they are rounding.
    if without <= ROUNDING * every[-1, -1]:
        return Shares(tuple(start), 1.0)
    if not squared_error(every, shares) < (1 - WORTH) * without:
        return Shares(tuple(start), 1.0)
    alike = products([*usual, *further, true])
    before, after = squared_error(alike, start), squared_error(alike, shares)
    return Shares(tuple(shares), after / before if before else 1.0)


def products(
    rows: Sequence[Float[Tensor, "checked base_dim"]], use: Float64[Tensor, "checked"] | None = None
) -> Float64[np.ndarray, "estimates_and_true estimates_and_true"]:
    """The inner products of several estimates of the same rows, and of the true ones, which come
    last: each row by its `use`, or all alike."""
    found = np.zeros((len(rows), len(rows)))
    for part in strips(len(rows[0]), 16 * len(rows) * rows[0].shape[1]):
        some = torch.stack([each[part].double() for each in rows])
        weighted = some if use is None else some * use[part].to(some.device)[:, None]
        found += (some.flatten(1) @ weighted.flatten(1).T).numpy(force=True)
    return found


def fit_shares(
    every: Float64[np.ndarray, "estimates_and_true estimates_and_true"],
    without_evidence: Sequence[float],
) -> list[float]:
    """Shares c >= 0 that minimise E(c) + `PULL` E(c0) |c - c0|², from `products` by use: E is the
    squared error by use of the sum of c_i times estimate i, c0 the shares `without_evidence`."""
    gram, right, start = every[:-1, :-1], every[:-1, -1], np.array(without_evidence)
    error = squared_error(every, without_evidence)
    # Large enough for a factor where estimates are the same but for rounding.
    least = 16 * len(start) * np.finfo(np.float64).eps * np.trace(gram)
    pull = max(PULL * error, least, np.finfo(np.float64).tiny)
    factor = np.linalg.cholesky(gram + pull * np.eye(len(start))).T
    target = scipy.linalg.solve_triangular(factor.T, right + pull * start, lower=True)
    return [float(share) for share in scipy.optimize.nnls(factor, target)[0]]


def squared_error(
    every: Float64[np.ndarray, "estimates_and_true estimates_and_true"], shares: Sequence[float]
) -> float:
    """The squared error of the sum of `shares[i]` times estimate i, from `products`."""
    left = np.array([*(-share for share in shares), 1.0])
    return max(float(left @ every @ left), 0.0)
