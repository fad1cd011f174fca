"""Refuses `weight`s that sum to 0, by which `linear` would divide."""

from __future__ import annotations

from collections.abc import Sequence

from mergekit.graph import Task
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask

from mergekit_omp.errors import TransplantError
from mergekit_omp.transplant.methods import TransplantMethod


def check_weights_sum(method: TransplantMethod, tasks: Sequence[Task]) -> None:
    """Raise TransplantError where `linear` is to normalize weights that sum to 0."""
    if method.inner.spec.name != "linear":
        return
    for task in tasks:
        if not isinstance(task, ExecuteMergeMethodTask) or not task.parameters["normalize"]:
            continue
        weights = [task.input_parameters[model]["weight"] for model in task.model_order]
        if sum(weights) == 0:
            found = ", ".join(
                f"{w:g} of {m}" for w, m in zip(weights, task.model_order, strict=True)
            )
            raise TransplantError(
                f"merge_method {method.spec.name!r}, tensor {task.output_weight.name}: each `weight` "
                f"is divided by the sum of all, which is 0 ({found}). Write other weights, or "
                "`normalize: false`."
            )
