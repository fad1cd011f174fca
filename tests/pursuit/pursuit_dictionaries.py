"""Targets and atoms that look a little like embeddings."""

from __future__ import annotations

import torch
from torch import Tensor


def dictionary(
    targets: int, atoms: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Rows with a common mean, a few strong directions, and norms that differ."""
    draw = torch.Generator().manual_seed(seed)
    factors = torch.randn(max(2, dim // 8), dim, generator=draw, dtype=torch.float64)
    mean = 0.3 * torch.randn(dim, generator=draw, dtype=torch.float64)

    def rows(count: int) -> Tensor:
        weights = torch.randn(count, len(factors), generator=draw, dtype=torch.float64)
        noise = torch.randn(count, dim, generator=draw, dtype=torch.float64)
        sizes = torch.exp(0.3 * torch.randn(count, 1, generator=draw, dtype=torch.float64))
        return (sizes * (noise + 0.5 * weights @ factors / len(factors) ** 0.5 + mean)).to(dtype)

    return rows(targets), rows(atoms)
