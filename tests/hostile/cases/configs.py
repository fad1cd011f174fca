"""Near misses of a user: what is written in a config, and what is meant."""

from __future__ import annotations

from hostile.cases.numbers import source
from hostile.scene import Case, config, refused


def near(method: str, meant: str) -> Case:
    return refused(
        f"merge_method {method!r}",
        config(merge_method=method),
        repr(method),
        f"Did you mean {meant}",
    )


CASES: list[Case] = [
    near("OMP", "omp"),
    near("omp + ties", "omp+ties"),
    near("krigging", "kriging"),
    near("omp+tie", "omp+ties"),
    near("omp-ties", "omp+ties"),
    near("Omp+Linear", "omp+linear"),
    near("wechsl", "wechsel"),
    near("omp+", "omp"),
    near("ties+omp", "omp+ties"),
    refused(
        "a base that is misspelt",
        config(base_model="./bsae", models=[{"model": "./bsae"}]),
        "./bsae",
        "no such directory",
    ),
    refused(
        "a model that is misspelt",
        config(models=[{"model": "./bsae"}]),
        "./bsae",
        "no such directory",
    ),
    refused("a source that is misspelt", config(tokenizer_source="./dnoor"), "./dnoor"),
    refused(
        "a filter that is misspelt",
        config(parameters={"k": [{"filter": "lm_hed", "value": 3}, {"value": 4}]}),
        "lm_hed",
        "lm_head",
    ),
    refused(
        "a token that is misspelt",
        source(tokens={"<|edn|>": {"source": {"kind": "zero"}}}),
        "<|edn|>",
        "Did you mean '<|end|>'",
    ),
    refused("a parameter in capitals", config(parameters={"K": 16}), "'K'", "Did you mean 'k'"),
    refused("an empty token", source(tokens={"": {"source": {"kind": "zero"}}}), "''"),
]
