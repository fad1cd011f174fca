"""Kernels compute what they say as plain Python too, and their arrays have the shapes they say."""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil
import sys
import typing
from collections import defaultdict
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from pursuit_dictionaries import dictionary

from mergekit_omp import pursuit
from mergekit_omp.kernels import compiled
from mergekit_omp.kernels.compiled import AVAILABLE, KERNELS
from mergekit_omp.pursuit.eight_bit import EightBit
from mergekit_omp.pursuit.gram import STEPS, build, solve_by_gram
from mergekit_omp.pursuit.lockstep import Exhaustive, solve_in_lockstep
from mergekit_omp.pursuit.problem import prepare

for _module in pkgutil.iter_modules(pursuit.__path__):
    importlib.import_module(f"{pursuit.__name__}.{_module.name}")
OURS = {name: forms for name, forms in KERNELS.items() if name.startswith(pursuit.__name__)}
KEPT = 4
"""Calls of a kernel that are made again."""

Call = tuple[Any, ...]


@pytest.fixture(scope="module")
def calls() -> dict[str, list[Call]]:
    """Of every kernel the arguments of a few calls, in a pursuit without compiled code."""
    found: dict[str, list[Call]] = defaultdict(list)

    def recorder(name: str, plain: Any) -> Any:
        def record(*arguments: Any, **named: Any) -> Any:
            arguments = inspect.signature(plain).bind(*arguments, **named).args
            if len(found[name]) >= KEPT:
                return plain(*arguments)
            found[name].append(copy.deepcopy(arguments))
            return plain(*arguments)

        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "AVAILABLE", True)
        for name, (made, plain) in OURS.items():
            record = recorder(name, plain)
            for module in [sys.modules[n] for n in sys.modules if n.startswith(pursuit.__name__)]:
                for label, value in list(vars(module).items()):
                    if value is made:
                        patch.setattr(module, label, record)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            pursue_everything()
        finally:
            torch.set_num_threads(threads)
    return found


def pursue_everything() -> None:
    targets, atoms = dictionary(9, 130, 12)
    problem = prepare(targets, atoms, 6, None)
    expected = solve_in_lockstep(problem, Exhaustive(problem))
    code = solve_in_lockstep(problem, EightBit(problem))
    assert torch.equal(code.indices, expected.indices)
    # More atoms that may be the largest than there are places for.
    near = 9 * atoms[:1] * (1 + torch.arange(700)[:, None] / 1e6)
    crowd = prepare(near[:2] + targets[:2] / 9, torch.cat([atoms, near]), 1, None)
    EightBit(crowd).find(crowd.targets, torch.zeros(2, 830, dtype=torch.bool))
    for dtype in STEPS:
        for verified in (True, False):
            code, hard = solve_by_gram(problem, build(problem, dtype), 9, verified)
            sure = torch.ones(9, dtype=torch.bool)
            sure[hard] = False
            assert sure.any()
            assert torch.equal(code.indices[sure], expected.indices[sure]) or not verified
    # So many atoms of nearly one correlation that guesses are overtaken by unlisted ones.
    many = prepare(*dictionary(2, 1400, 8, seed=4), 8, None)
    solve_by_gram(many, build(many, torch.int16), 2)


@pytest.mark.parametrize("name", sorted(OURS))
def test_plain_and_compiled_forms_agree(name: str, calls: dict[str, list[Call]]) -> None:
    made, plain = OURS[name]
    assert calls[name], "no pursuit above reaches this kernel"
    for arguments in calls[name]:
        one, other = copy.deepcopy(arguments), copy.deepcopy(arguments)
        results = made(*one), plain(*other)
        if not name.endswith(".workspace"):  # what is in its arrays is by chance
            same(*results)
            same(one, other)


@pytest.mark.parametrize("name", sorted(OURS))
def test_arrays_have_the_shapes_that_signatures_say(
    name: str, calls: dict[str, list[Call]]
) -> None:
    _, plain = OURS[name]
    hints = typing.get_type_hints(plain)
    for arguments in calls[name]:
        bound = inspect.signature(plain).bind(*arguments).arguments
        with jaxtyping.jaxtyped("context"):
            for label, value in bound.items():
                if isinstance(value, np.ndarray):
                    assert isinstance(value, hints[label]), f"{label}: {value.dtype}{value.shape}"


def same(one: Any, other: Any) -> None:
    if isinstance(one, tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            same(left, right)
    elif isinstance(one, np.ndarray) or np.isscalar(one):
        # What was rounded to integers of few bits may be so the other way.
        atol = 1 if getattr(one, "dtype", None) in (np.int8, np.int16) else 1e-5
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=atol)
    else:
        assert one == other


def test_kernels_are_compiled_where_numba_is() -> None:
    assert all(hasattr(made, "py_func") == AVAILABLE for made, _ in OURS.values())
