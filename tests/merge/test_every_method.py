"""Every merge method that mergekit has, behind an approximation: as on already swapped models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mergekit.plan  # noqa: F401
import pytest
from mergekit import merge_methods
from mergekit.merge_methods.base import BasePolicy
from merges import merge_here, swap
from merging import assert_same
from small_models import load

from mergekit_omp.transplant.methods import TransplantMethod

INNER = {
    method.spec.name: method.spec
    for method in merge_methods.registered_methods()
    if not isinstance(method, TransplantMethod)
}
K = {"k": 4}
# One value for each parameter, other than its default wherever that makes a difference.
VALUES: dict[str, Any] = {
    "t": 0.4,
    "weight": 0.6,
    "density": 0.6,
    "gamma": 0.05,
    "epsilon": 0.1,
    "lambda": 0.8,
    "select_topk": 0.5,
    "r": 0.2,
    "alpha": 0.3,
    "filter_wise": True,
    "max_iter": 5,
    "nuslerp_row_wise": True,
    "nuslerp_flatten": False,
}


@pytest.fixture(scope="module")
def swapped(
    family: list[Path], narrow_donor: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    folder = tmp_path_factory.mktemp("swapped")
    out = [folder / str(i) for i in range(len(family))]
    for path, to in zip(family, out, strict=True):
        assert merge_here(swap(path, narrow_donor, parameters=K), to).status == 0
    return out


@pytest.mark.parametrize("method", sorted(set(INNER) - {"passthrough"}))
def test_it_merges_the_aligned_tensors_as_the_inner_method_does(
    method: str, family: list[Path], swapped: list[Path], narrow_donor: Path, merge: Any
) -> None:
    contract = INNER[method].contract
    with_base = contract.base in (BasePolicy.REQUIRED, BasePolicy.OPTIONAL)
    count = 1 if contract.max_inputs == 2 else 2
    per_model, shared = (
        {
            p.name: VALUES[p.name]
            for p in INNER[method].parameters
            if p.name in VALUES and (p.scope.name == "SHARED") == is_shared
        }
        for is_shared in (False, True)
    )

    def config(paths: list[Path], name: str, **more: Any) -> dict[str, Any]:
        chosen = paths[1 : 1 + count] if with_base else paths[:2]
        # The second model weighs half as much, so that their order shows.
        weighed = [
            {k: v / (i + 1) if k == "weight" else v for k, v in per_model.items()}
            for i in range(len(chosen))
        ]
        return {
            "merge_method": name,
            **({"base_model": str(paths[0])} if with_base else {}),
            "models": [
                {"model": str(p), **({"parameters": w} if w else {})}
                for p, w in zip(chosen, weighed, strict=True)
            ],
            "dtype": "float32",
            **more,
        }

    seed = ("--random-seed", "3")
    composite = merge(
        config(
            family, f"omp+{method}", tokenizer_source=str(narrow_donor), parameters={**K, **shared}
        ),
        "composite",
        *seed,
    )
    plain = merge(config(swapped, method, parameters=shared), "plain", *seed)
    assert_same(composite, plain)
    load(composite)
