"""An approximation in front of a merge method merges exactly as that method does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import swap
from mergekit import merge_methods
from safetensors.torch import load_file
from small_models import load

from mergekit_omp.approximation.registry import APPROXIMATIONS
from mergekit_omp.methods import TransplantMethod


@pytest.fixture(scope="module")
def family(models: Any) -> list[Path]:
    """A base and two fine-tunes of it: one vocabulary, other weights."""
    return [
        models(f"sp_{seed}", "sentencepiece_bpe", seed=seed, layers=1, hidden=16)
        for seed in (0, 5, 6)
    ]


@pytest.fixture(scope="module")
def donor(models: Any) -> Path:
    return models("bytes", "byte_level", hidden=48, seed=1)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


MERGES: dict[str, tuple[list[int], dict[str, Any], dict[str, Any]]] = {
    "linear": ([1, 2], {"weight": 0.3}, {}),
    "slerp": ([0, 1], {}, {"t": 0.4}),
    "nuslerp": ([1, 2], {"weight": 0.6}, {}),
    "ties": ([1, 2], {"weight": 0.5, "density": 0.6}, {}),
    "dare_ties": ([1, 2], {"weight": 0.5, "density": 0.5}, {}),
    "task_arithmetic": ([1, 2], {"weight": 0.7}, {}),
}


@pytest.mark.parametrize("method", MERGES)
def test_it_merges_the_aligned_tensors_as_the_inner_method_does(
    method: str, family: list[Path], donor: Path, merge: Any
) -> None:
    inputs, per_model, shared = MERGES[method]
    has_base = method not in ("linear", "nuslerp")

    def config(paths: list[Path], name: str, **more: Any) -> dict[str, Any]:
        return {
            "merge_method": name,
            **({"base_model": str(paths[0])} if has_base else {}),
            "models": [{"model": str(paths[i]), "parameters": per_model} for i in inputs],
            "dtype": "float32",
            **more,
        }

    composite = merge(
        config(
            family,
            f"omp+{method}",
            tokenizer_source=str(donor),
            parameters={"k": 8, **shared},
        ),
        "composite",
        "--random-seed",
        "3",
    )
    swapped = [
        merge(swap(path, donor, parameters={"k": 8}), f"swapped_{i}")
        for i, path in enumerate(family)
        if has_base or i in inputs
    ]
    if not has_base:
        swapped.insert(0, swapped[0])
    plain = merge(config(swapped, method, parameters=shared), "plain", "--random-seed", "3")
    ours, theirs = weights(composite), weights(plain)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0, msg=name)
    load(composite)


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
    ours = weights(merge(config, "arithmetic"))
    alone = weights(merge(swap(family[0], donor, parameters={"k": 8}), "alone"))
    for name, tensor in alone.items():
        assert torch.equal(ours[name], tensor), name
