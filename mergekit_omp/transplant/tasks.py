"""Graph tasks whose results mergekit merges: the output's tokenizer, and aligned vocabulary
tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from mergekit.common import ModelReference
from mergekit.graph import Task
from mergekit.io.tasks import ReturnTensor
from mergekit.tokenizer import BuildTokenizer, PermutedVocabulary, TokenizerInfo
from torch import Tensor

from mergekit_omp.approximation.base import AnchorCoding
from mergekit_omp.approximation.codes import working_dtype
from mergekit_omp.approximation.fit import PIECES
from mergekit_omp.approximation.moments import finite_mean
from mergekit_omp.approximation.zett import Zett
from mergekit_omp.pursuit import Code
from mergekit_omp.transplant.log import MergeLog
from mergekit_omp.transplant.row_plan import (
    HOLDS_PLANS,
    ApproximatedRows,
    RowPlan,
    vocabulary_first,
)
from mergekit_omp.transplant.running import running

_GIVEN = ("code", "donor", "other_matrix", "predicted", "made")


@dataclass(frozen=True, eq=False)
class OutputTokenizer:
    """The output's tokenizer, in an object that compares by identity."""

    tokenizer: transformers.PreTrainedTokenizerBase


class TransplantTokenizer(BuildTokenizer):
    """mergekit's tokenizer task, with the tokenizer that planning has already built."""

    model_config = HOLDS_PLANS

    output: OutputTokenizer

    def execute(self, **_kwargs: Any) -> TokenizerInfo:
        return TokenizerInfo(tokenizer=self.output.tokenizer, permutations={}, original_vocabs={})


@dataclass(frozen=True)
class InputKey:
    """Names one input of the approximation of rows; as text it is the name of a task's argument."""

    kind: str
    """One of `_GIVEN`."""
    plan: int
    served: int
    """Which of the plan's approximated rows."""

    def __str__(self) -> str:
        return f"{self.kind}_{self.plan}_{self.served}"


class TensorInMemory(ReturnTensor):
    """mergekit's own task.

    In 0.1.5 the type of its field refuses the tasks that a planner makes.
    """

    tensor_task: Task

    def main_thread_only(self) -> bool:
        return self.tensor_task.main_thread_only()

    def execute(self, tensor: Tensor | None) -> Tensor | None:
        """The tensor in the dtype that is asked for; None where an optional one is in no model."""
        return None if tensor is None else super().execute(tensor)


class AlignedVocabulary(PermutedVocabulary):
    """One vocabulary tensor of every model, with the output's rows: copied, approximated or set."""

    model_config = HOLDS_PLANS

    plans: tuple[RowPlan, ...]
    log: MergeLog

    def arguments(self) -> dict[str, Task]:
        inputs = {str(key): task for key, task in self.donor_inputs().items()}
        return {"tensors": self.gather_tensors, **inputs}

    def donor_inputs(self) -> dict[InputKey, Task]:
        """The tasks whose results the approximations need, beside the models' own tensors."""
        found: dict[InputKey, Task] = {}
        for i, plan in enumerate(self.plans):
            for j, served in enumerate(plan.approximated):
                tasks: dict[str, Task | None]
                if served.by_blocks is not None:
                    tasks = {"made": served.by_blocks}
                else:
                    tasks = {
                        "code": served.encode,
                        "donor": served.donor if served.encode is None else None,
                        "predicted": served.predict,
                        "other_matrix": served.other_matrix,
                    }
                found |= {InputKey(k, i, j): task for k, task in tasks.items() if task is not None}
        return found

    def uses_accelerator(self) -> bool:
        return True

    def group_label(self) -> str | None:
        return self.gather_tensors.group_label()

    def execute(
        self, tensors: dict[ModelReference, Tensor], **inputs: Any
    ) -> dict[ModelReference, Tensor]:
        axis = self.vocabulary_axis
        matrices = {model: vocabulary_first(t, axis) for model, t in tensors.items()}
        dtype = None
        for tensor in tensors.values():
            dtype = tensor.dtype if dtype is None else torch.promote_types(dtype, tensor.dtype)
        result = {}
        for i, plan in enumerate(self.plans):
            if plan.model not in tensors:
                continue
            given = [
                {kind: inputs.get(str(InputKey(kind, i, j))) for kind in _GIVEN}
                for j in range(len(plan.approximated))
            ]
            with running(self.log):
                aligned = _align(plan, matrices, dtype, given)
            rest = tensors[plan.model].movedim(axis, 0).shape[1:]
            result[plan.model] = aligned.reshape(plan.rows, *rest).movedim(0, axis)
        return result


def _align(
    plan: RowPlan,
    matrices: dict[ModelReference, Tensor],
    dtype: torch.dtype | None,
    given: list[dict[str, Any]],
) -> Tensor:
    base = matrices[plan.model]

    def index(rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows).to(base.device)

    aligned = torch.zeros((plan.rows, base.shape[1]), dtype=dtype, device=base.device)
    aligned[index(plan.copied_to)] = base[index(plan.copied_from)].to(aligned.dtype)
    for served, inputs in zip(plan.approximated, given, strict=True):
        rows = _approximated(served, base, **inputs)
        aligned[index(served.rows)] = rows.to(base.device, aligned.dtype)
    if len(plan.without_donor_row):
        aligned[index(plan.without_donor_row)] = finite_mean(base).to(aligned.dtype)
    for row, model, sources, weights in plan.overrides:
        if model is None:
            aligned[row] = 0
        elif len(sources) == 1:
            aligned[row] = matrices[model][sources[0]].to(aligned.dtype)
        else:
            wide = matrices[model][list(sources)].to(working_dtype(aligned))
            aligned[row] = (wide.new_tensor(weights) @ wide).to(aligned.dtype)
    if len(plan.padding):
        kept = torch.ones(plan.rows, dtype=torch.bool, device=base.device)
        kept[index(plan.padding)] = False
        aligned[~kept] = finite_mean(aligned, kept).to(aligned.dtype)
    return aligned


def _approximated(
    served: ApproximatedRows,
    base: Tensor,
    code: dict[str, Any] | None,
    donor: Tensor | None,
    other_matrix: Tensor | None,
    predicted: dict[str, Tensor] | None,
    made: dict[str, Any] | None,
) -> Tensor:
    if made is not None:
        _keep(served, made["in_force"], made["row_fit"])
        return served.approximation.finished(made["rows"].to(base.device), base, served.part)
    if predicted is not None:
        assert isinstance(served.approximation, Zett)
        _keep(served, {}, {PIECES.key: predicted["counts"]})
        return served.approximation.decode(predicted, base, len(served.rows), served.part)
    if code is not None:
        assert isinstance(served.approximation, AnchorCoding)
        anchor_rows = torch.from_numpy(served.coding.anchor_rows)
        _keep(served, code["in_force"], code["row_fit"])
        return served.approximation.decode(
            Code.from_tensors(code), base, anchor_rows, served.part, served.tied
        )
    inputs = served.inputs(donor, other_matrix)
    rows = served.approximation.rows(served.problem(base, inputs))
    _keep(served, inputs.in_force, inputs.row_fit)
    return rows


def _keep(served: ApproximatedRows, in_force: dict[str, Any], row_fit: dict[str, Tensor]) -> None:
    """Keep what the method told of its run, which the record asks for."""
    served.in_force.update(in_force)
    served.row_fit.update({key: figures.cpu() for key, figures in row_fit.items()})
