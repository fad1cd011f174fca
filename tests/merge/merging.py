"""What the tests of merges share: outputs compared tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of an output, of one shard or of many."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= load_file(file)
    assert found
    return found


def assert_same(ours: Path, theirs: Path) -> None:
    """The two hold the same tensors, bit by bit."""
    mine, others = tensors(ours), tensors(theirs)
    assert mine.keys() == others.keys()
    for name, tensor in others.items():
        assert mine[name].dtype == tensor.dtype, name
        assert torch.equal(mine[name], tensor), name


def record(path: Path) -> dict:
    return json.loads((path / "tokenizer_transplant.json").read_text())
