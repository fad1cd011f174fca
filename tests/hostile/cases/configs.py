"""Near misses of a user: what is written in a config, and what is meant."""

from __future__ import annotations

from hostile.cases.numbers import source
from hostile.scene import Case, Edit, both, config, late, refused, right


def near(method: str, meant: str) -> Case:
    return refused(
        f"merge_method {method!r}",
        config(merge_method=method),
        repr(method),
        f"Did you mean {meant}",
    )


def slices(first: int, last: int) -> Edit:
    return config(
        models=None,
        slices=lambda s: [{"sources": [{"model": str(s.base), "layer_range": [first, last]}]}],
    )


def vectors(content: str) -> Edit:
    return lambda scene: (scene.folder / "a.vec").write_text(content) and None


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
    refused("an empty merge_method", config(merge_method=""), "merge_method ''"),
    refused("a method twice", config(merge_method="omp+omp"), "'omp+omp'"),
    refused("a method of letters that look alike", config(merge_method="\u043emp"), "merge_method"),
    refused("a method with an escape in it", config(merge_method="omp+\x1b[2J"), "x1b[2J"),
    refused("a base of two dots", config(base_model="..", models=[{"model": ".."}]), ".."),
    refused("a base with a null byte", config(base_model="a\0b", models=[{"model": "a\0b"}]), "a"),
    refused(
        "a source that is a file",
        config(tokenizer_source=lambda s: str(s.donor / "config.json")),
        "config.json",
    ),
    refused("a dtype of whole numbers", config(dtype="int64"), "`dtype: int64`", "bfloat16"),
    refused("a dtype that is none", config(dtype="float99"), "`dtype: float99`", "bfloat16"),
    refused("layers past the last", slices(0, 99), "{base}", "0 to 99"),
    refused("a million layers", slices(0, 10**6), "{base}", "0 to 1000000"),
    refused("layers before the first", slices(-5, 1), "{base}", "-5 to 1"),
    refused("layers in reverse", slices(1, 0), "{base}", "1 to 0"),
    refused(
        "a slice of nothing", config(models=None, slices=[{"sources": []}]), "slice 0", "sources"
    ),
    refused(
        "a LoRA without a cache",
        config(
            base_model=lambda s: f"{s.base}+./lora",
            models=lambda s: [{"model": f"{s.base}+./lora"}],
        ),
        "--lora-merge-cache",
    ),
    Case(
        "a GPU that is not there",
        lambda s: s.arguments.update({"mergekit-yaml": ["--device", "cuda"]}),
        ("'cuda'", "--device"),
        ("mergekit-yaml",),
    ),
    Case(
        "several GPUs that are not there",
        lambda s: s.arguments.update({"mergekit-yaml": ["--multi-gpu"]}),
        ("--multi-gpu",),
        ("mergekit-yaml",),
    ),
    Case(
        "a device without numbers",
        lambda s: s.arguments.update({"mergekit-yaml": ["--device", "meta"]}),
        ("'meta'",),
        ("mergekit-yaml",),
    ),
    *(
        refused(f"k of {k!r}", config(parameters={"k": k}), "parameter k")
        for k in (-1, 0, 3.5, True, "4", "1e3")
    ),
    refused("k of infinity", config(parameters={"k": float("inf")}), "k is inf"),
    right("k of 10^30", config(parameters={"k": 10**30})),
    refused(
        "a seed past its range", config(merge_method="normal", parameters={"seed": 2**32}), "seed"
    ),
    late("memory of 1KB", config(parameters={"memory": "1KB"}), "memory"),
    refused("memory that is negative", config(parameters={"memory": "-5GB"}), "memory"),
    refused(
        "vectors that are a folder",
        config(merge_method="focus", parameters=lambda s: {"auxiliary": str(s.base)}),
        "{base}",
    ),
    late(
        "vectors without words",
        both(vectors(""), config(merge_method="focus", parameters={"auxiliary": "a.vec"})),
        "a.vec",
    ),
    late(
        "vectors that are not finite",
        both(
            vectors("2 2\na nan nan\nb inf 1\n"),
            config(merge_method="focus", parameters={"auxiliary": "a.vec"}),
        ),
        "a.vec",
    ),
]
