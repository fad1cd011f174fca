"""Weights that are no numbers: quantised, packed, of another shape than a vocabulary's, not finite."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merges import swap
from merging import record, tensors
from safetensors.torch import load_file, save_file

QUANTISED = {
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "bitsandbytes 4bit": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "bitsandbytes 8bit": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    "mxfp4": {"quant_method": "mxfp4"},
}
LAYER = "model.layers.0.mlp.up_proj"


def edited(path: Path, to: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    shutil.copytree(path, to)
    held = load_file(to / "model.safetensors")
    edit(held)
    save_file(
        {name: tensor.contiguous() for name, tensor in held.items()},
        to / "model.safetensors",
        metadata={"format": "pt"},
    )
    return to


def configured(path: Path, to: Path, **settings: Any) -> Path:
    shutil.copytree(path, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | settings))
    return to


@pytest.mark.parametrize("name", QUANTISED)
def test_a_base_with_a_quantisation_config(
    name: str, base: Path, donor: Path, tmp_path: Path, refusal: Any, inspected: Any
) -> None:
    quantised = configured(base, tmp_path / "quantised", quantization_config=QUANTISED[name])
    config = swap(quantised, donor, "zero")
    said = refusal(config)
    assert f"{quantised} is quantised ({name})" in said
    assert "Dequantise it first" in said
    assert said in inspected(config).text


def test_a_quantised_donor_whose_vocabulary_is_plain_serves(
    base: Path, donor: Path, tmp_path: Path, merge: Any
) -> None:
    def pack(held: dict[str, torch.Tensor]) -> None:
        held[f"{LAYER}.qweight"] = held.pop(f"{LAYER}.weight").to(torch.int32)

    packed = edited(donor, tmp_path / "packed", pack)
    quantised = configured(packed, tmp_path / "q", quantization_config=QUANTISED["gptq"])
    outs = [merge(swap(base, d, parameters={"k": 2}), f"{d.name}-out") for d in (donor, quantised)]
    plain, other = map(tensors, outs)
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def packed_layer(held: dict[str, torch.Tensor]) -> None:
    held[f"{LAYER}.qweight"] = held.pop(f"{LAYER}.weight").to(torch.int32)
    held[f"{LAYER}.scales"] = torch.ones(4)


def eight_bit_codes(held: dict[str, torch.Tensor]) -> None:
    held[f"{LAYER}.weight"] = held[f"{LAYER}.weight"].to(torch.float8_e4m3fn)
    held[f"{LAYER}.weight_scale_inv"] = torch.ones(1, 1)


def four_bit_codes(held: dict[str, torch.Tensor]) -> None:
    held[f"{LAYER}.weight"] = torch.zeros(64, 1, dtype=torch.uint8)
    held[f"{LAYER}.weight.absmax"] = torch.ones(4)


def eight_bit_integers(held: dict[str, torch.Tensor]) -> None:
    held[f"{LAYER}.weight"] = held[f"{LAYER}.weight"].to(torch.int8)


def complex_numbers(held: dict[str, torch.Tensor]) -> None:
    held[f"{LAYER}.weight"] = held[f"{LAYER}.weight"].to(torch.complex64)


@pytest.mark.parametrize(
    "edit", [packed_layer, eight_bit_codes, four_bit_codes, eight_bit_integers, complex_numbers]
)
def test_a_base_with_codes_and_no_config_that_says_so(
    edit: Any, base: Path, donor: Path, tmp_path: Path, refusal: Any
) -> None:
    said = refusal(swap(edited(base, tmp_path / "packed", edit), donor, "zero"))
    assert f"{tmp_path / 'packed'} holds packed or scaled weights ({LAYER}." in said


def eight_bit_vocabulary(held: dict[str, torch.Tensor]) -> None:
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        held[name] = held[name].to(torch.float8_e4m3fn)


def test_eight_bit_floats_without_a_scale_are_numbers(
    base: Path, donor: Path, tmp_path: Path, merge: Any, refusal: Any
) -> None:
    """What comes out is what the same numbers in bfloat16 give."""

    def rounded(held: dict[str, torch.Tensor]) -> None:
        eight_bit_vocabulary(held)
        for name, tensor in held.items():
            held[name] = tensor.to(torch.bfloat16)

    for which in ("base", "donor"):
        path = {"base": base, "donor": donor}[which]
        eight = edited(path, tmp_path / f"{which}8", eight_bit_vocabulary)
        same = edited(path, tmp_path / f"{which}16", rounded)
        found = []
        for stand_in in (eight, same):
            pair = {"base": base, "donor": donor, which: stand_in}
            config = swap(pair["base"], pair["donor"], parameters={"k": 2})
            found.append(tensors(merge(config, stand_in.name + "-out")))
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            assert torch.equal(found[0][name], found[1][name])
    config = swap(tmp_path / "base8", donor, "zero")
    del config["dtype"]
    assert "Add `dtype: bfloat16`" in refusal(config)


def scaled_head(held: dict[str, torch.Tensor]) -> None:
    held["lm_head.weight"] = held["lm_head.weight"].to(torch.float8_e4m3fn)
    held["lm_head.weight_scale"] = torch.ones(1)


def packed_head(held: dict[str, torch.Tensor]) -> None:
    held["lm_head.qweight"] = held.pop("lm_head.weight").to(torch.int32)


@pytest.mark.parametrize("edit", [scaled_head, packed_head])
def test_a_donor_whose_vocabulary_is_scaled_or_packed(
    edit: Any, base: Path, donor: Path, tmp_path: Path, refusal: Any
) -> None:
    said = refusal(swap(base, edited(donor, tmp_path / "scaled", edit)))
    assert f"The donor {tmp_path / 'scaled'} has a packed or scaled vocabulary matrix" in said


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda head: head.to(torch.int32), "int32"),
        (lambda head: head.to(torch.complex64), "complex64"),
        (lambda head: head[None], "which is not that of a vocabulary matrix"),
        (lambda head: head[:, 0], "which is not that of a vocabulary matrix"),
        (lambda head: head.T, "It seems to be transposed"),
        (lambda head: head[:, :-4], "where its config says"),
    ],
    ids=["integer", "complex", "rank-3", "rank-1", "transposed", "width"],
)
@pytest.mark.parametrize("which", ["base", "donor"])
def test_a_head_that_is_no_matrix_of_rows(
    which: str,
    change: Any,
    complaint: str,
    base: Path,
    donor: Path,
    tmp_path: Path,
    refusal: Any,
    inspected: Any,
) -> None:
    def edit(held: dict[str, torch.Tensor]) -> None:
        held["lm_head.weight"] = change(held["lm_head.weight"])

    pair = {"base": base, "donor": donor}
    pair[which] = edited(pair[which], tmp_path / "odd", edit)
    config = swap(pair["base"], pair["donor"])
    said = refusal(config)
    assert complaint in said
    assert "lm_head.weight" in said
    assert str(tmp_path / "odd") in said
    assert said in inspected(config).text


@pytest.mark.parametrize("how", ["dtype", "out_dtype"])
def test_numbers_that_do_not_fit_into_float16(
    how: str, base: Path, donor: Path, tmp_path: Path, refused_late: Any
) -> None:
    def grow(held: dict[str, torch.Tensor]) -> None:
        held["lm_head.weight"][300:303, 0] = 1e6

    large = edited(base, tmp_path / "large", grow)
    config = {**swap(large, donor, "zero"), how: "float16"}
    said = refused_late(config)
    assert "numbers of lm_head.weight are not finite in float16" in said
    assert "bfloat16" in said

    def grow_elsewhere(held: dict[str, torch.Tensor]) -> None:
        held[f"{LAYER}.weight"][:2, 0] = 1e6

    large = edited(base, tmp_path / "large-body", grow_elsewhere)
    said = refused_late({**swap(large, donor, "zero"), how: "float16"})
    assert f"2 of the 512 numbers of {LAYER}.weight are not finite in float16" in said


def test_rows_of_the_base_that_are_not_finite(
    base: Path, donor: Path, tmp_path: Path, refusal: Any
) -> None:
    def spoil(held: dict[str, torch.Tensor]) -> None:
        held["model.embed_tokens.weight"][300:310] = float("nan")

    spoilt = edited(base, tmp_path / "spoilt", spoil)
    said = refusal(swap(spoilt, donor, "mean"))
    assert f"10 rows of model.embed_tokens.weight of {spoilt} hold numbers that are not" in said


def test_padding_that_the_merge_leaves_out(models: Any, donor: Path, merge: Any) -> None:
    padded = models("padded", "sentencepiece_bpe", rows=2048, layers=1, hidden=16)
    config = swap(padded, donor, "zero")
    (warning,) = [w for w in record(merge(config))["warnings"] if "padding" in w]
    assert "2048 rows for 2000 ids" in warning
    assert "its 48 rows of padding are left out" in warning
    assert f"{{source: {donor.name}, pad_to_multiple_of: 128}}" in warning
    del config["tokenizer_source"]
    config["tokenizer"] = {"source": str(donor), "pad_to_multiple_of": 128}
    out = merge(config, "kept")
    assert len(tensors(out)["lm_head.weight"]) == 2048
    assert not any("padding" in warning for warning in record(out)["warnings"])
