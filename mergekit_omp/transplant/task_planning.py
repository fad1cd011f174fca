"""The last step of a plan: mergekit's tasks, with ours in front of the merge and behind it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from mergekit.architecture import WeightInfo
from mergekit.graph import Task
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask

from mergekit_omp.models.headers import header as header_of
from mergekit_omp.record.record import transplant_record
from mergekit_omp.transplant.blocks import Blocks, Devices, VocabularyOfBlocks
from mergekit_omp.transplant.completing import CompleteRecord, PlannedRecord, TensorStatistics
from mergekit_omp.transplant.finite import finite_merge
from mergekit_omp.transplant.log import MergeLog
from mergekit_omp.transplant.merge import Merge, MergeOutput
from mergekit_omp.transplant.other_readers import TokenizerFiles, tokenizer_files
from mergekit_omp.transplant.output_settings import OutputSettings
from mergekit_omp.transplant.planning import TensorRows, TransplantPlan
from mergekit_omp.transplant.tasks import AlignedVocabulary


@dataclass(frozen=True, eq=False)
class MergeTasks:
    """The tasks of one merge."""

    tensors: tuple[tuple[WeightInfo, Task], ...]
    """Every tensor of the output with the task that makes it, in mergekit's order."""
    aligned: tuple[AlignedVocabulary, ...]
    """The tasks among their inputs that align vocabulary tensors, in the order of the plan."""


def plan_tasks(plan: TransplantPlan, log: MergeLog, devices: Devices | None = None) -> MergeTasks:
    """mergekit's tasks, those of vocabulary tensors with their alignment before the merge.

    `devices`: several that the missing rows of each tensor are spread over.
    """
    aligned = {tensor.planned.weight.name: _aligned(tensor, log) for tensor in plan.tensors}
    if devices is not None:
        problems = sum(len(p.approximated) for task in aligned.values() for p in task.plans)
        blocks = Blocks(devices, problems, log)
        aligned = {name: _by_blocks(task, blocks) for name, task in aligned.items()}
    out_dtype = plan.request.config.out_dtype
    tensors: list[tuple[WeightInfo, Task]] = []
    for weight, task in plan.weights:
        if isinstance(task, ExecuteMergeMethodTask):
            gather = aligned.get(weight.name, task.gather_tensors)
            task = finite_merge(
                task,
                gather_tensors=gather,
                written_as=weight.force_dtype or out_dtype,
                device=gather.device if isinstance(gather, VocabularyOfBlocks) else None,
            )
        tensors.append((weight, task))
    return MergeTasks(tuple(tensors), tuple(aligned.values()))


def plan_record(
    plan: TransplantPlan, tasks: MergeTasks, merge: Merge, out_path: str
) -> CompleteRecord:
    """The task that completes the record of what `tasks` will have done.

    From here on `merge` knows what its output in `out_path` will be.
    """
    request = plan.request
    files = tokenizer_files(plan.tokenizer, plan.config.model_type)
    merge.output = MergeOutput(
        path=out_path,
        rows=plan.rows,
        sources=request.sources,
        shown=request.shown,
        write_settings=functools.partial(_write_settings, plan.settings, plan.config, files),
    )
    plan.inputs.warnings.add_all(files.warnings)
    record = transplant_record(
        merge_method=request.method.spec.name,
        approximation=request.method.approximation.name,
        base_model=str(request.base),
        tokenizer_source=str(request.source),
        rows=plan.rows,
        tokens=plan.output.tokens,
        models=[{"model": str(model), "tensors": plan.entries(model)} for model in request.models],
        lost=plan.lost,
        warnings=plan.inputs.warnings.messages,
    )
    return CompleteRecord(
        merge=merge,
        statistics=tuple(TensorStatistics(aligned=task) for task in tasks.aligned),
        planned=PlannedRecord(record),
    )


def _aligned(tensor: TensorRows, log: MergeLog) -> AlignedVocabulary:
    permuted = tensor.planned.permuted
    return AlignedVocabulary(
        gather_tensors=permuted.gather_tensors,
        tokenizer_task=permuted.tokenizer_task,
        tokens=None,
        pad_to_multiple_of=None,
        base_model=permuted.base_model,
        vocabulary_axis=permuted.vocabulary_axis,
        plans=tuple(rows.plan for rows in tensor.models),
        log=log,
    )


def _by_blocks(aligned: AlignedVocabulary, blocks: Blocks) -> AlignedVocabulary:
    """The same with the missing rows made in blocks, where the method can."""
    if not any(served.approximation.in_blocks for p in aligned.plans for served in p.approximated):
        return aligned
    loads = {load.model: load for load in aligned.gather_tensors.arguments().values()}
    dtypes = [header.dtype for load in loads.values() if (header := header_of(load)) is not None]
    dtype = functools.reduce(torch.promote_types, dtypes)
    axis = aligned.vocabulary_axis
    plans = tuple(
        replace(
            plan,
            approximated=tuple(
                blocks.of(served, loads[plan.model], axis, dtype) for served in plan.approximated
            ),
        )
        for plan in aligned.plans
    )
    fields = {name: getattr(aligned, name) for name in AlignedVocabulary.model_fields}
    return VocabularyOfBlocks(**{**fields, "plans": plans}, device=blocks.devices.kind)


def _write_settings(
    settings: OutputSettings,
    config: transformers.PretrainedConfig,
    files: TokenizerFiles,
    out_path: str,
) -> None:
    settings.write(Path(out_path), config, files)
