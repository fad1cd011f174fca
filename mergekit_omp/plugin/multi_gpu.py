"""What a plan needs to be run by mergekit's executor for several GPUs (`--multi-gpu`)."""

from __future__ import annotations

import functools
from typing import Any

import torch
from mergekit import multigpu_executor
from mergekit.graph import Task
from mergekit.io.tasks import FinalizeModel, SaveTensor
from mergekit.options import MergeOptions

from mergekit_omp.transplant.blocks import Devices, VocabularyOfBlocks

_PAUSE = 0.01
"""Seconds between two looks at whether a queue is empty."""


def devices_of(options: MergeOptions) -> Devices | None:
    """What the vocabulary tensors of a merge are spread over; None where it is one device."""
    if not options.multi_gpu:
        return None
    devices = accelerators()
    if devices is not None:
        _wait_for_results()
    return devices


def accelerators() -> Devices | None:
    """What mergekit would spread tasks over; None where there are not two of them."""
    if hasattr(torch, "accelerator"):
        kind, count = torch.accelerator.current_accelerator(), torch.accelerator.device_count()
        return Devices(count, kind.type) if kind is not None and count > 1 else None
    count = torch.cuda.device_count()
    return Devices(count, "cuda") if count > 1 else None


def saved_in_main_thread(tasks: list[Task]) -> list[Task]:
    """mergekit's plan to disk: what the main thread makes is saved by it too.

    The executor refuses a plan in which another thread would have to wait for it.
    """
    saved = {
        task: task.model_copy(update={"force_main_thread": True})
        for task in tasks
        if isinstance(task, SaveTensor) and task.tensor_task.main_thread_only()
    }
    if not saved:
        return tasks
    found = []
    for task in tasks:
        if isinstance(task, SaveTensor):
            task = saved.get(task, task)
        elif isinstance(task, FinalizeModel):
            own = tuple(saved.get(each, each) for each in task.tensor_save_tasks)
            task = task.model_copy(update={"tensor_save_tasks": own})
        found.append(task)
    return found


def _wait_for_results() -> None:
    """Have mergekit's workers end when their results have been taken.

    mergekit stops listening as soon as all workers have ended. A result that nobody has taken by
    then would be made again, by the CPU.
    """
    executor: Any = multigpu_executor.MultiGPUExecutor
    if getattr(executor, "_mergekit_omp", False):
        return
    original = executor._device_worker

    @functools.wraps(original)
    def _device_worker(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if any(isinstance(task, VocabularyOfBlocks) for task in self.universe.tasks):
            while not (self.task_completion_queue.empty() or self.done_event.is_set()):
                self.done_event.wait(_PAUSE)

    executor._device_worker = _device_worker
    executor._mergekit_omp = True
