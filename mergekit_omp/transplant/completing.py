"""The last graph tasks: what came out of each tensor, and the record that it completes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from mergekit.common import ModelReference
from mergekit.graph import Task
from torch import Tensor

from mergekit_omp.approximation.fit import FITS, Fit
from mergekit_omp.pursuit import Code
from mergekit_omp.record.id_ranges import written
from mergekit_omp.record.row_facts import RowFacts
from mergekit_omp.transplant.merge import Merge
from mergekit_omp.transplant.row_plan import HOLDS_PLANS, RowPlan, vocabulary_first
from mergekit_omp.transplant.tasks import AlignedVocabulary, InputKey

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class PlannedRecord:
    """`tokenizer_transplant.json`, without what only the run can tell."""

    content: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Measured:
    """What the run tells of one model's aligned tensor."""

    figures: dict[str, Any] = field(default_factory=dict)
    """Summaries of norms, residuals and supports, by their keys in the tensor's entry."""
    in_force: dict[str, Any] = field(default_factory=dict)
    """Parameters that the method chose or reduced, by name."""
    facts: RowFacts | None = None
    """None where the merge does not read this tensor of the model."""


class TensorStatistics(Task[list[Measured]]):
    """Measures one aligned vocabulary tensor, model by model, for the record."""

    model_config = HOLDS_PLANS

    aligned: AlignedVocabulary

    def arguments(self) -> dict[str, Task]:
        inputs = self.aligned.donor_inputs().items()
        codes = {str(key): task for key, task in inputs if key.kind == "code"}
        return {"tensors": self.aligned, **codes}

    def main_thread_only(self) -> bool:
        return self.aligned.main_thread_only()

    def priority(self) -> int:
        # Runs right after the alignment, so that the tensor is not kept in memory for this.
        return 2000

    def group_label(self) -> str | None:
        return self.aligned.group_label()

    def execute(
        self, tensors: dict[ModelReference, Tensor], **codes: dict[str, Any]
    ) -> list[Measured]:
        found = []
        for i, plan in enumerate(self.aligned.plans):
            if plan.model not in tensors:
                found.append(Measured())
                continue
            matrix = vocabulary_first(tensors[plan.model], self.aligned.vocabulary_axis)
            of_plan = [
                codes.get(str(InputKey("code", i, j))) for j in range(len(plan.approximated))
            ]
            found.append(_measured(plan, matrix, of_plan))
        return found


def _measured(
    plan: RowPlan, matrix: Shaped[Tensor, "rows width"], codes: list[dict[str, Any] | None]
) -> Measured:
    """`codes`: for each entry of `plan.approximated` its code, if its method makes one."""
    rows = [served.rows for served in plan.approximated]
    approximated = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
    facts = RowFacts.of(plan.rows, plan.copied_to, rows, plan.without_donor_row, plan.overrides)
    fitted, support = defaultdict(list), []
    for served, code in zip(plan.approximated, codes, strict=True):
        if code is not None:
            support.append(Code.from_tensors(code).support_sizes().double())
        for key, values in served.row_fit.items():
            fitted[key].append(values.double())
            facts.fit[served.rows] = values.numpy()
    figures: dict[str, Any] = {
        "row_norms": {
            "copied": _summary(_norms(matrix, plan.copied_to)),
            "approximated": _summary(_norms(matrix, approximated)),
        }
    }
    for key, parts in fitted.items():
        together = torch.cat(parts)
        figures[key] = _summary(together[~together.isnan()], FITS[key])
    if support:
        figures["support_size"] = _summary(torch.cat(support))
    # Of the donor that serves most rows, where there are several.
    most = max(plan.approximated, key=lambda served: len(served.rows), default=None)
    return Measured(figures, {} if most is None else most.in_force, facts)


def _norms(matrix: Tensor, rows: np.ndarray) -> Tensor:
    chosen = torch.from_numpy(rows).to(matrix.device)
    return torch.cat(
        [matrix[block].double().norm(dim=1) for block in chosen.split(_ROWS_AT_ONCE)]
        or [matrix.new_empty(0, dtype=torch.float64)]
    )


def _summary(values: Tensor, fit: Fit | None = None) -> dict[str, float] | None:
    """Mean, median, 95th percentile and largest, to six significant digits.

    Of a figure of fit of which the smallest is the worst: the 5th percentile and the smallest.
    """
    if not len(values):
        return None
    ordered = values.cpu().numpy()
    figures = {"mean": ordered.mean(), "median": np.median(ordered)}
    if fit is None or fit.largest_is_worst:
        figures |= {"p95": np.quantile(ordered, 0.95), "max": ordered.max()}
    else:
        figures |= {"p05": np.quantile(ordered, 0.05), "min": ordered.min()}
    return {name: float(f"{value:.6g}") for name, value in figures.items()}


class CompleteRecord(Task[None]):
    """Give the merge its record: what was planned, and what only the run could tell."""

    model_config = HOLDS_PLANS

    merge: Merge
    statistics: tuple[TensorStatistics, ...]
    planned: PlannedRecord

    def arguments(self) -> dict[str, Task]:
        return {f"statistics_{i}": task for i, task in enumerate(self.statistics)}

    def main_thread_only(self) -> bool:
        return True

    def execute(self, **statistics: list[Measured]) -> None:
        measured: dict[str, list[Measured]] = defaultdict(list)
        new_rows: dict[str, list[np.ndarray]] = defaultdict(list)
        for i, task in enumerate(self.statistics):
            found = statistics[f"statistics_{i}"]
            for plan, of_model in zip(task.aligned.plans, found, strict=True):
                name = str(plan.model)
                measured[name].append(of_model)
                new_rows[name] += [served.rows for served in plan.approximated]
                new_rows[name].append(plan.without_donor_row)
        planned = self.planned.content
        models = []
        for m, model in enumerate(planned["models"]):
            name = model["model"]
            told = list(zip(model["tensors"], measured[name], strict=True))
            complete = {**model, "tensors": [_with_measured(*both) for both in told]}
            if new_rows[name]:
                complete["approximated_ids"] = written(np.concatenate(new_rows[name]))
            models.append(complete)
            for t, (_, of_model) in enumerate(told):
                if of_model.facts is not None:
                    self.merge.row_facts[m, t] = of_model.facts
        warnings = list(dict.fromkeys([*planned["warnings"], *self.merge.log.run_warnings()]))
        self.merge.record = {**planned, "models": models, "warnings": warnings}


def _with_measured(planned: dict[str, Any], measured: Measured) -> dict[str, Any]:
    """A tensor's entry, with the parameters' values in force in place of those written."""
    in_force = {**planned["parameters"], **measured.in_force}
    return {**planned, "parameters": in_force, **measured.figures}
