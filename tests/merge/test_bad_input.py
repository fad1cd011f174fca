"""Bad input: one clear error that names the culprit and the remedy, before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from merges import merge_here, record, swap
from safetensors.torch import load_file, save_file
from small_models import load, matrices, save_model
from tokenizers import Tokenizer
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast


def copy_of(path: Path, to: Path) -> Path:
    shutil.copytree(path, to)
    return to


def edit_weights(path: Path, edit: Any) -> None:
    file = path / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_no_tokenizer_source(base: Path, refusal: Any) -> None:
    config = swap(base, base)
    del config["tokenizer_source"]
    said = refusal(config)
    assert "'omp'" in said
    assert "Add `tokenizer_source:`" in said


def test_a_tokenizer_source_that_does_not_exist(base: Path, tmp_path: Path, refusal: Any) -> None:
    said = refusal(swap(base, tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in said
    assert "no such directory" in said


def test_a_tokenizer_source_without_a_tokenizer(
    base: Path, donor: Path, tmp_path: Path, refusal: Any
) -> None:
    bare = copy_of(donor, tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    said = refusal(swap(base, bare))
    assert f"{bare} has no tokenizer" in said
    assert "tokenizer.json" in said


def test_a_tokenizer_source_without_weights(
    base: Path, donor: Path, tmp_path: Path, refusal: Any, merge: Any
) -> None:
    bare = copy_of(donor, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    said = refusal(swap(base, bare))
    assert f"The donor {bare} has no weights" in said
    assert "mean" in said
    load(merge(swap(base, bare, "mean")))


def test_a_base_without_a_tokenizer(base: Path, donor: Path, tmp_path: Path, refusal: Any) -> None:
    bare = copy_of(base, tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    assert f"{bare} has no tokenizer" in refusal(swap(bare, donor))


@pytest.mark.parametrize("method", ["omp", "mean"])
def test_no_shared_token(method: str, base: Path, tmp_path: Path, refusal: Any) -> None:
    words = {word: i for i, word in enumerate(["qqqq", "zzzz", "xxxx", "[X]"])}
    alien = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(tokenizer_models.WordLevel(words, unk_token="[X]"))
    )
    donor = save_model(tmp_path / "alien", alien)
    said = refusal(swap(base, donor, method))
    assert str(base) in said
    assert str(donor) in said
    assert "share no token" in said


@pytest.mark.parametrize(
    ("k", "complaint"),
    [(0, "greater than or equal to 1"), (-3, "greater than or equal to 1"), ("many", "number")],
)
def test_a_k_that_is_no_positive_number(
    k: Any, complaint: str, base: Path, donor: Path, refusal: Any
) -> None:
    said = refusal(swap(base, donor, parameters={"k": k}))
    assert "merge_method 'omp'" in said
    assert "parameter k: " in said
    assert complaint in said
    assert f"found {k!r}." in said


def test_a_misspelt_parameter(base: Path, donor: Path, refusal: Any) -> None:
    said = refusal(swap(base, donor, parameters={"kk": 8}))
    assert "'omp' has no parameter 'kk'" in said
    assert "Did you mean 'k'?" in said


def test_a_misspelt_merge_method(base: Path, donor: Path, refusal: Any) -> None:
    said = refusal(swap(base, donor, "omp+tiess"))
    assert "'tiess'" in said
    assert "Did you mean omp+ties?" in said


def test_two_models_for_a_method_that_takes_one(
    family: list[Path], donor: Path, refusal: Any
) -> None:
    base, other, _ = family
    config = swap(base, donor)
    config["models"].append({"model": str(other)})
    said = refusal(config)
    assert str(base) in said
    assert str(other) in said
    assert "omp+linear" in said


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_donor_matrix_that_is_zero_or_not_finite(
    value: float, base: Path, donor: Path, tmp_path: Path, refusal: Any
) -> None:
    broken = copy_of(donor, tmp_path / "broken")
    edit_weights(broken, lambda t: t["lm_head.weight"].fill_(value))
    said = refusal(swap(base, broken))
    assert f"lm_head.weight of the donor {broken}" in said
    assert "zero or not finite" in said


def test_single_bad_rows_of_a_donor_are_left_out(
    base: Path, donor: Path, tmp_path: Path, merge: Any
) -> None:
    holed = copy_of(donor, tmp_path / "holed")

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.embed_tokens.weight"][300:400] = float("nan")
        tensors["lm_head.weight"][300:400] = 0

    edit_weights(holed, edit)
    out = merge(swap(base, holed))
    for matrix in matrices(out):
        assert torch.isfinite(matrix).all()
    said = record(out)
    assert any("No donor has a usable row" in warning for warning in said["warnings"])


def test_an_output_path_that_is_a_file(base: Path, donor: Path, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("mine")
    done = merge_here(swap(base, donor), path)
    assert done.status == 1
    assert f"{str(path)!r} is a file" in done.text
    assert path.read_text() == "mine"


def test_an_output_path_that_holds_another_model(base: Path, donor: Path, tmp_path: Path) -> None:
    path = copy_of(donor, tmp_path / "out")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    done = merge_here(swap(base, donor), path)
    assert done.status == 1
    assert "already holds another model: a LlamaForCausalLM with 1 weight file" in done.text
    assert before == {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("which", ["base", "donor"])
def test_an_output_path_that_is_an_input(
    which: str, base: Path, donor: Path, tmp_path: Path
) -> None:
    inputs = {"base": copy_of(base, tmp_path / "b"), "donor": copy_of(donor, tmp_path / "d")}
    for path in inputs.values():
        (path / "mergekit_config.yml").write_text("# an earlier merge")
    done = merge_here(swap(inputs["base"], inputs["donor"]), inputs[which])
    assert done.status == 1
    assert f"is the model {inputs[which]} itself" in done.text


def test_an_earlier_merge_is_written_over(base: Path, donor: Path, merge: Any) -> None:
    merge(swap(base, donor, "zero"))
    out = merge(swap(base, donor, "mean"))
    said = record(out)
    assert said["merge_method"] == "mean"


def test_gaps_and_ids_past_the_matrix_work_with_one_warning_each(
    base: Path, real_tokenizer: Any, tmp_path: Path, merge: Any
) -> None:
    tokenizer = real_tokenizer("byte_level")
    size = len(tokenizer.get_vocab())
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # Ids 10, 20 and 30 lose their tokens; four new tokens come after a gap of two more.
    for token in [t for t, i in state["model"]["vocab"].items() if i in (1010, 1020, 1030)]:
        del state["model"]["vocab"][token]
        state["model"]["merges"] = [
            m for m in state["model"]["merges"] if token not in (m[0], m[1], "".join(m))
        ]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_tokens(["alpha-beta", "gamma-delta", "epsilon-zeta", "eta-theta"])
    donor = save_model(tmp_path / "donor", tokenizer, rows=size, hidden=48)
    out = merge(swap(base, donor))
    warnings = record(out)["warnings"]
    gaps = [warning for warning in warnings if "without a token" in warning]
    past = [
        warning
        for warning in warnings
        if "1 id without one" in warning or "ids without one" in warning
    ]
    assert len(gaps) == 1
    assert len(past) == 2, "one for the input embedding and one for the head"
    model, loaded = load(out)
    highest = max(loaded.get_vocab().values())
    assert model.config.vocab_size == model.lm_head.weight.shape[0] == highest + 1
    gone = [1010, 1020, 1030, *range(size, highest + 1)]
    for matrix in matrices(out):
        assert torch.isfinite(matrix).all()
        assert (matrix[gone].norm(dim=1) > 0).all()


def test_ids_past_the_bases_own_matrix(
    base: Path, donor: Path, real_tokenizer: Any, tmp_path: Path, merge: Any
) -> None:
    tokenizer = real_tokenizer("sentencepiece_bpe")
    size = max(tokenizer.get_vocab().values()) + 1
    short = save_model(tmp_path / "short", tokenizer, rows=size - 100)
    out = merge(swap(short, donor))
    (model,) = record(out)["models"]
    for entry in model["tensors"]:
        assert entry["counts"]["out_of_range"] > 0
        assert entry["counts"]["copied"] + entry["counts"]["approximated"] == 2000
    load(out)


def test_a_tokens_entry_for_an_unknown_token(base: Path, donor: Path, refusal: Any) -> None:
    config = swap(base, donor)
    del config["tokenizer_source"]
    config["tokenizer"] = {"source": str(donor), "tokens": {"<|nope|>": {"force": True}}}
    said = refusal(config)
    assert "'<|nope|>'" in said
    assert "Check the spelling" in said


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ({"kind": "model_token", "token": "<|nope|>"}, "'<|nope|>'"),
        ({"kind": "model_token", "token_id": 10**6}, "id 1000000"),
    ],
)
def test_a_tokens_entry_whose_source_is_unknown(
    source: dict[str, Any], complaint: str, base: Path, donor: Path, refusal: Any
) -> None:
    config = swap(base, donor)
    del config["tokenizer_source"]
    entry = {"source": {**source, "model": str(base)}, "force": True}
    config["tokenizer"] = {"source": str(donor), "tokens": {"<|end|>": entry}}
    assert complaint in refusal(config)


def test_a_tokens_entry_from_a_model_outside_the_merge(
    base: Path, donor: Path, refusal: Any
) -> None:
    config = swap(base, donor)
    del config["tokenizer_source"]
    source = {"kind": "model_token", "model": str(donor), "token": "<|end|>"}
    config["tokenizer"] = {
        "source": str(donor),
        "tokens": {"<|end|>": {"source": source, "force": True}},
    }
    said = refusal(config)
    assert "not part of the merge" in said
    assert str(base) in said


def test_tokens_entries_win_over_the_approximation(base: Path, donor: Path, merge: Any) -> None:
    _, output = load(donor)
    _, own = load(base)
    config = swap(base, donor)
    del config["tokenizer_source"]
    config["tokenizer"] = {
        "source": str(donor),
        "tokens": {
            "<|end|>": {
                "source": {"kind": "model_token", "model": str(base), "token_id": 77},
                "force": True,
            },
            "<|pad|>": {"source": {"kind": "zero"}, "force": True},
        },
    }
    out = merge(config)
    for ours, theirs in zip(matrices(out), matrices(base), strict=True):
        assert torch.equal(ours[output.eos_token_id], theirs[77])
        assert not ours[output.pad_token_id].any()
        assert torch.equal(ours[output.bos_token_id], theirs[own.bos_token_id])
