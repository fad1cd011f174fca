"""How far to guess in a pursuit by lists: found out on some of the targets.

It depends on the data how many guesses are wrong, and how many cannot be told from wrong ones by
8-bit products: where residuals are short and correlations many, nearly all.
"""

from __future__ import annotations

import logging

import torch

from mergekit_omp.pursuit.eight_bit import EightBit
from mergekit_omp.pursuit.listed import solve_listed
from mergekit_omp.pursuit.problem import Problem
from mergekit_omp.pursuit.verification import Guesses, wrong_guesses

LOG = logging.getLogger(__package__)

CAUTIONS = (1.0, 1.4, 2.0)
FAST_CAUTION = 1.0
"""Where guesses are not checked: other atoms that are nearly as good will do."""
USUAL_CAUTION = 1.4
"""Where targets are too few to try what is best."""
TRIED, SHARE = 64, 16
"""Targets to try on, and of how many one is tried at most."""
LEAST = 8
WORTH = 0.7
"""Where guessing saves less than the rest of the sweeps, checking takes more."""


def best_caution(problem: Problem, search: EightBit) -> float | None:
    """The caution that takes the fewest sweeps, those for targets to solve again included.

    None where guessing does not pay.
    """
    tried = min(TRIED, len(problem.targets) // SHARE)
    if tried < LEAST:
        return USUAL_CAUTION
    part = problem.subset(torch.linspace(0, len(problem.targets) - 1, tried).long())
    rows = torch.arange(tried)
    costs = {}
    for caution in CAUTIONS:
        code, trail = solve_listed(part, search, caution)
        wrong = wrong_guesses(part, search, [Guesses.of(part, rows, code, trail)])
        swept = int((trail.projections != 0).sum() - trail.guessed.sum())
        costs[caution] = (swept + len(wrong) * problem.sparsity) / tried
    caution = min(costs, key=lambda caution: costs[caution])
    LOG.debug("sweeps for a target, by caution: %s", costs)
    return caution if costs[caution] < WORTH * problem.sparsity else None
