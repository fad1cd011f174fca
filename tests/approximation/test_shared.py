"""What one tensor's search found serves the next, and changes nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from approximation_world import random_base
from test_kriging import with_other_matrix, world

from mergekit_omp.approximation import MissingRows, Part
from mergekit_omp.approximation.kriging import Kriging
from mergekit_omp.approximation.shared import Shared, checksum


def test_what_is_found_is_kept_for_equal_tensors_alone() -> None:
    shared, given, asked = Shared(), torch.arange(4), []

    def find(answer: str) -> str:
        asked.append(answer)
        return answer

    assert shared.of("a", [given], lambda: find("first")) == "first"
    assert shared.of("a", [given.clone()], lambda: find("again")) == "first"
    assert shared.of("b", [given], lambda: find("other")) == "other"
    assert shared.of("a", [given + 1], lambda: find("further")) == "further"
    assert asked == ["first", "other", "further"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [3, 4, 8])
def test_a_checksum_tells_matrices_and_their_order(dtype: torch.dtype, dim: int) -> None:
    matrix = random_base(6, dim, seed=1).to(dtype)
    other = matrix.clone()
    other[5, dim - 1] += 1
    assert torch.equal(checksum(matrix), checksum(matrix.clone()))
    for changed in (other, matrix.flip(0), matrix[:5], matrix.reshape(dim, 6)):
        assert not torch.equal(checksum(matrix), checksum(changed))


def test_a_head_finds_what_it_would_have_found_alone() -> None:
    """The donor's matrices change places from one tensor to the next."""
    problem = with_other_matrix(world())
    inputs = problem.inputs
    assert inputs.texts is not None
    swapped = dataclasses.replace(
        inputs,
        donor=None,
        targets=inputs.other_targets,
        anchors=inputs.other_anchors,
        other_targets=inputs.targets,
        other_anchors=inputs.anchors,
    )
    head = MissingRows(Part.HEAD, problem.base, swapped)
    Kriging().rows(problem)
    after_input = Kriging().rows(head)
    fresh = dataclasses.replace(inputs.texts)
    alone = dataclasses.replace(head, inputs=dataclasses.replace(swapped, texts=fresh))
    assert torch.equal(after_input, Kriging().rows(alone))
