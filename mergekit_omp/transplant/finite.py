"""The merge of one tensor, which fails if the result is not finite in the dtype it is written
in."""

from __future__ import annotations

from typing import Any

import torch
from mergekit.common import ModelReference, dtype_from_name
from mergekit.graph import Task
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from torch import Tensor

from mergekit_omp.errors import TransplantError

_NUMBERS_AT_ONCE = 1 << 24


class FiniteMerge(ExecuteMergeMethodTask):
    """mergekit's own task, with a check of its result."""

    written_as: str | None
    """The dtype that the result is cast to, by mergekit's name; None for no cast."""
    device: str | None
    """Where to merge, in the main thread; None for where the executor says."""

    def main_thread_only(self) -> bool:
        return self.gather_tensors.main_thread_only()

    def execute(self, tensors: dict[ModelReference, Tensor], **kwargs: Any) -> Tensor | None:
        if self.device is not None and self.uses_accelerator():
            tensors = {model: tensor.to(self.device) for model, tensor in tensors.items()}
        merged = super().execute(tensors, **kwargs)
        if merged is None or not merged.is_floating_point():
            return merged
        dtype = dtype_from_name(self.written_as) or merged.dtype
        bad = _not_finite(merged, dtype)
        if not bad:
            return merged
        narrow = dtype == torch.float16
        name = self.output_weight.name
        remedy = "Write `dtype: bfloat16`, or `out_dtype: bfloat16`, in the config."
        what = f"{bad} of the {merged.numel()} numbers of {name} are not finite"
        cause = " in float16, which ends at 65504" if narrow else ""
        origin = [str(m) for m, t in tensors.items() if not torch.isfinite(t).all()]
        where = f" They come from {', '.join(origin)}." if origin else ""
        raise TransplantError(
            f"{what}{cause}: the output would not be whole.{where} "
            + (remedy if narrow else "Check that these weights are whole.")
        )


def finite_merge(
    task: ExecuteMergeMethodTask,
    *,
    gather_tensors: Task,
    written_as: str | None,
    device: str | None = None,
) -> FiniteMerge:
    """`task` with that check, and with `gather_tensors` as its input."""
    fields = {name: getattr(task, name) for name in ExecuteMergeMethodTask.model_fields}
    fields["gather_tensors"] = gather_tensors
    return FiniteMerge(**fields, written_as=written_as, device=device)


def _not_finite(tensor: Tensor, dtype: torch.dtype) -> int:
    """How many numbers of a tensor are not finite once cast to `dtype`."""
    # A sum with NaN or infinity in it is not finite, so a finite sum rules both out.
    if dtype != torch.float16 and torch.isfinite(tensor.sum(dtype=torch.float32)):
        return 0
    flat = tensor.reshape(-1)
    return sum(
        int((~torch.isfinite(block.to(dtype))).sum()) for block in flat.split(_NUMBERS_AT_ONCE)
    )
