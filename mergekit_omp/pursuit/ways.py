"""The ways to look for atoms, and which of them this machine has."""

from __future__ import annotations

from enum import Enum

import torch

from mergekit_omp.kernels import compiled
from mergekit_omp.kernels.compiled import has_instructions


class Way(Enum):
    """How a search multiplies; all but the first leave little to do in the working dtype."""

    FLOAT = "products in the working dtype"
    BFLOAT16 = "products in bfloat16"
    BYTES = "products of 8-bit integers"
    GRAM = "a Gram matrix"

    @property
    def search(self) -> str:
        """What users write for it."""
        return {Way.FLOAT: "reference", Way.GRAM: "gram"}.get(self, "screened")


def obstacle(way: Way, device: torch.device) -> str | None:
    """Why a way cannot be gone on a device of this machine; None where it can."""
    if way in (Way.FLOAT, Way.BFLOAT16):
        return None
    if device.type != "cpu":
        return f"the vectors are on {device}, and it runs on a CPU"
    if reason := compiled.obstacle():
        return reason
    if way is Way.BYTES and not has_instructions("avx512_vnni", "avx_vnni", "amx_int8"):
        return "the processor has no products of 8-bit integers that torch knows (VNNI or AMX)"
    return None


def available(device: torch.device) -> list[Way]:
    """The ways that can be gone on a device of this machine."""
    return [way for way in Way if obstacle(way, device) is None]
