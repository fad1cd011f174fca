"""What the tests of merges share: outputs compared tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import torch
from merges import record
from safetensors.torch import load_file

__all__ = ["assert_same", "record", "tensors"]


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
