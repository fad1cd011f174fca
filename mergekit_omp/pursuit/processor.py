"""What the processor can do."""

from __future__ import annotations

import torch


def has_instructions(*names: str) -> bool:
    """Whether it has any of these, by torch's names for them; older releases of torch tell none."""
    features: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(features.get(name) for name in names)
