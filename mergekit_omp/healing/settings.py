"""How long a healing trains, and on how much at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What a healing depends on beside its model and its text."""

    steps: int = 300
    """At most so many: it stops where the held-out text's loss no longer falls."""
    batch_size: int = 8
    context: int = 256
    learning_rate: float | None = None
    """Adam's; None: `rate` of the typical entry of the rows that each matrix had before."""
    rate: float = 0.05
    """Of a matrix's typical entry, by how much about one step moves an entry at most."""
    every: int = 25
    """Steps between evaluations, each of which leaves a checkpoint."""
    patience: int = 3
    """Evaluations that may pass without a lower loss."""
    seed: int = 0
    lora: int | None = None
    """The rank of adapters that are trained beside the rows, and merged into the body."""


LORA_RATE = 2e-4
"""Adam's, for adapters: a usual one."""
