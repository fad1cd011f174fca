"""An approximation in front of a merge method merges exactly as that method does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mergekit import merge_methods
from merges import swap
from merging import tensors

from mergekit_omp.approximation.registry import APPROXIMATIONS
from mergekit_omp.transplant.methods import TransplantMethod


def test_every_registered_method_has_its_composites() -> None:
    import mergekit.plan  # noqa: F401

    registered = {method.spec.name: method for method in merge_methods.registered_methods()}
    inner = [name for name, m in registered.items() if not isinstance(m, TransplantMethod)]
    assert {"ties", "slerp", "passthrough", "della_linear"} <= set(inner)
    for approximation in APPROXIMATIONS:
        # mergekit's own `linear` keeps its name: the approximation alone is linear+passthrough.
        assert isinstance(registered[approximation], TransplantMethod) != (
            approximation == "linear"
        )
        for name in inner:
            assert f"{approximation}+{name}" in registered


def test_fine_tunes_of_one_base_share_their_codes(
    family: list[Path], donor: Path, merge: Any
) -> None:
    # A model merged with itself: any difference in codes would show in the task vector.
    config = {
        "merge_method": "omp+task_arithmetic",
        "base_model": str(family[0]),
        "models": [{"model": str(family[1]), "parameters": {"weight": 0.0}}],
        "tokenizer_source": str(donor),
        "parameters": {"k": 8},
        "dtype": "float32",
    }
    ours = tensors(merge(config, "arithmetic"))
    alone = tensors(merge(swap(family[0], donor, parameters={"k": 8}), "alone"))
    for name, tensor in alone.items():
        assert torch.equal(ours[name], tensor), name
