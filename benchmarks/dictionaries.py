"""Dictionaries for the solver's benchmarks: rows distributed as those of embedding matrices are."""

from __future__ import annotations

import os
import platform

import torch
from torch import Tensor


def embeddings(rows: int, dim: int, seed: int) -> Tensor:
    """Random rows in `dim` dimensions, rounded to bfloat16 as checkpoints are, in float32.

    A common mean, an eighth of the dimensions that carry a third of the variance with a decaying
    spectrum, clusters of related rows, isotropic noise, and norms that spread by a quarter. What
    is shared by all draws comes from a seed of its own, so that two seeds give two samples of
    one distribution: targets and atoms.
    """
    shared = torch.Generator().manual_seed(20260606)
    draw = torch.Generator().manual_seed(seed)
    rank = max(1, dim // 8)
    clusters = 1024
    mean = 0.2 * torch.randn(dim, generator=shared) / dim**0.5
    spectrum = torch.linspace(1, 0.3, rank)
    factors = torch.randn(rank, dim, generator=shared) / dim**0.5 * spectrum[:, None]
    centres = 0.5 * torch.randn(clusters, dim, generator=shared) / dim**0.5
    out = torch.empty(rows, dim)
    for low in range(0, rows, 8192):
        some = out[low : low + 8192]
        count = len(some)
        torch.randn(count, dim, generator=draw, out=some)
        some /= dim**0.5
        some += torch.randn(count, rank, generator=draw) @ factors / rank**0.5
        some += centres[torch.randint(clusters, (count,), generator=draw)] + mean
        some *= torch.exp(0.25 * torch.randn(count, 1, generator=draw))
        some.copy_(some.to(torch.bfloat16))
    return out


def machine() -> str:
    """The machine, in a line."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
        model = names[0] if names else model
    except OSError:
        pass
    load = os.getloadavg()[0]
    return (
        f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__},"
        f" Python {platform.python_version()}, load average before the run {load:.1f}"
    )
