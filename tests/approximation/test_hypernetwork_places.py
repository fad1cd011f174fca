"""Hypernetworks in a folder or from the hub, in one file or several; what is read of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from published_hypernetworks import MATRICES, TOKENS
from safetensors.torch import load_file, save_file
from small_hypernetworks import changed, expected, published
from torch import Tensor

from mergekit_omp.approximation.hypernetwork.opened import OpenedHypernetwork


@pytest.fixture
def hub(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hypernetwork that was downloaded, and no way to the hub; its commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    held = tmp_path / "hub" / "models--owner--hypernetwork"
    shutil.copytree(published(folder, "untied"), held / "snapshots" / commit)
    (held / "refs").mkdir()
    for name in ("main", "v1"):
        (held / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return commit


@pytest.mark.parametrize("revision", ["", "@v1", "@0123456789abcdef0123456789abcdef01234567"])
@pytest.mark.parametrize("headers_only", [False, True])
def test_a_hypernetwork_of_the_hub(hub: str, revision: str, headers_only: bool) -> None:
    source = f"owner/hypernetwork{revision}"
    opened = OpenedHypernetwork.open(source, None, headers_only=headers_only)
    assert opened.place.commit() == hub
    if not headers_only:
        found = opened.predict(opened.segment(TOKENS), MATRICES)["input"]
        torch.testing.assert_close(found, expected("untied")["input"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "owner/other",
            "owner/other: it is no folder, and cannot be had from the Hugging Face hub",
        ),
        ("owner/hypernetwork@v2", "cannot be had from the Hugging Face hub"),
        ("./missing", "./missing: there is no such folder"),
        ("/some/where/else", "there is no such folder"),
        ("hypernetwork", "there is no such folder, and it is no id of the Hugging Face hub"),
        ("own er/x", "cannot be had from the Hugging Face hub"),
    ],
)
def test_hypernetworks_that_cannot_be_had(hub: str, source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenedHypernetwork.open(source, None)


def test_weights_that_were_not_downloaded(hub: str, tmp_path: Path) -> None:
    (tmp_path / "hub/models--owner--hypernetwork/snapshots" / hub / "model.safetensors").unlink()
    for headers_only in (False, True):
        with pytest.raises(ValueError, match="cannot be had from the Hugging Face hub"):
            OpenedHypernetwork.open("owner/hypernetwork", None, headers_only=headers_only)


def test_tensors_that_are_not_used_are_not_read(folder: Path, tmp_path: Path) -> None:
    def spoil(weights: dict[str, Tensor]) -> None:
        del weights["model.embeddings.word_embeddings.weight"]
        weights["model.pooler.dense.weight"] = torch.full((3,), torch.nan)
        weights["lm_head.counts"] = torch.ones(2, dtype=torch.int64)
        # Positions that no token reaches.
        weights["model.embeddings.position_embeddings.weight"][7:] = torch.nan

    path = changed(published(folder, "untied"), tmp_path / "changed", weights=spoil)
    opened = OpenedHypernetwork.open(str(path), None)
    opened.check_weights()
    found = opened.predict(opened.segment(TOKENS), MATRICES)
    torch.testing.assert_close(found["head"], expected("untied")["head"], rtol=1e-5, atol=1e-5)


def test_weights_in_several_files(folder: Path, tmp_path: Path) -> None:
    path = changed(published(folder, "untied"), tmp_path / "sharded")
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = sorted(weights)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: weights[name] for name in names if files[name] == file}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    opened = OpenedHypernetwork.open(str(path), None)
    found = opened.predict(opened.segment(TOKENS), MATRICES)
    torch.testing.assert_close(found["input"], expected("untied")["input"], rtol=1e-5, atol=1e-5)
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"expected a file model-00002-of-00002\.safetensors"):
        OpenedHypernetwork.open(str(path), None)
