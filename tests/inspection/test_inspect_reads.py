"""`inspect` reads headers and rows that are here, writes nothing and needs no network."""

from __future__ import annotations

import json
import shutil
import socket
import struct
from pathlib import Path
from typing import Any

import huggingface_hub
import peft
import pytest
import torch
from huggingface_hub.utils import SafetensorsFileMetadata, SafetensorsRepoMetadata, TensorInfo
from merges import merge_here, swap
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def hollow(path: Path, to: Path) -> Path:
    """A copy whose safetensors file is a header and a hole."""
    shutil.copytree(path, to)
    tensors = load_file(path / "model.safetensors")
    header, end = {}, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        shape, offsets = list(tensor.shape), [end, end + size]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        end += size
    text = json.dumps(header).encode()
    with open(to / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return to


def told(told: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on where the models are or how busy the machine is."""
    for step in told["plan"]:
        step["seconds"] = 0
    return told


def names_removed(value: Any, *paths: Path) -> str:
    text = json.dumps(value)
    for path in paths:
        text = text.replace(str(path), "MODEL")
    return text


def test_holes_instead_of_a_donors_weights_are_seen(
    base: Path, donor: Path, tmp_path: Path, inspected: Any, facts: Any
) -> None:
    holes = hollow(donor, tmp_path / "donor")
    refused = merge_here(swap(base, holes), tmp_path / "out")
    assert "is zero or not finite" in refused.text
    assert inspected(swap(base, holes)).text.splitlines()[-1] == refused.text.splitlines()[-1]
    # Methods that read no rows do not mind.
    found = told(facts(swap(base, holes, "mean")))
    assert names_removed(found, holes) == names_removed(
        told(facts(swap(base, donor, "mean"))), donor
    )


def test_pickled_weights(models: Any, donor: Path, tmp_path: Path, facts: Any) -> None:
    whole = models("sp", "sentencepiece_bpe")
    pickled = tmp_path / "pickled"
    shutil.copytree(whole, pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(whole / "model.safetensors"), pickled / "pytorch_model.bin")
    found = told(facts(swap(pickled, donor)))
    assert names_removed(found, pickled) == names_removed(told(facts(swap(whole, donor))), whole)


def test_shards(models: Any, donor: Path, facts: Any) -> None:
    settings = {"seed": 4, "layers": 1}
    whole = models("whole", "sentencepiece_bpe", **settings)
    shards = models("shards", "sentencepiece_bpe", shard_size="100KB", **settings)
    assert len(list(shards.glob("*.safetensors"))) > 2
    found = [told(facts(swap(model, donor))) for model in (whole, shards)]
    assert names_removed(found[0], whole) == names_removed(found[1], shards)


def test_nothing_is_written_and_no_network_is_used(
    base: Path, donor: Path, tmp_path: Path, inspected: Any, monkeypatch: Any
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for root in (base, donor) for path in root.iterdir()}
    assert inspected(swap(base, donor)).status == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [path.name for path in tmp_path.rglob("*")] == ["inspected.yml"]


@pytest.mark.parametrize("role", ["model", "donor"])
def test_a_lora_is_not_merged(
    role: str, base: Path, donor: Path, tmp_path: Path, inspected: Any, facts: Any
) -> None:
    adapted = base if role == "model" else donor
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"])
    model = AutoModelForCausalLM.from_pretrained(adapted)
    peft.get_peft_model(model, settings).save_pretrained(tmp_path / "lora")
    reference = f"{adapted}+{tmp_path / 'lora'}"
    config = swap(*((reference, donor) if role == "model" else (base, reference)))  # type: ignore[arg-type]
    found = facts(config, "--lora-merge-cache", str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
    plain = told(facts(swap(base, donor)))
    assert names_removed(told(found), Path(reference)) == names_removed(plain, adapted)


def test_a_model_that_is_not_here_has_its_headers_fetched(
    base: Path, donor: Path, tmp_path: Path, facts: Any, monkeypatch: Any
) -> None:
    # Downloaded are its config and its tokenizer, as transformers has done by then.
    commit = "0123456789abcdef0123456789abcdef01234567"
    held = tmp_path / "hub" / "models--someone--model"
    weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(base, held / "snapshots" / commit, ignore=weights)
    (held / "refs").mkdir()
    (held / "refs" / "v2").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with safe_open(base / "model.safetensors", framework="pt") as file:
        tensors = {
            key: TensorInfo(dtype="F32", shape=file.get_slice(key).get_shape(), data_offsets=(0, 0))
            for key in file.keys()  # noqa: SIM118
        }
    asked = []

    def answer(repository: str, *, revision: str | None) -> SafetensorsRepoMetadata:
        asked.append((repository, revision))
        return SafetensorsRepoMetadata(
            metadata=None,
            sharded=False,
            weight_map=dict.fromkeys(tensors, "model.safetensors"),
            files_metadata={"model.safetensors": SafetensorsFileMetadata({}, tensors)},
        )

    monkeypatch.setattr(huggingface_hub, "get_safetensors_metadata", answer)
    found = told(facts(swap("someone/model@v2", donor)))
    assert asked == [("someone/model", "v2")]
    here = told(facts(swap(base, donor)))
    assert names_removed(found, Path("someone/model@v2")) == names_removed(here, base)
