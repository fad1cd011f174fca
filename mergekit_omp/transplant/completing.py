"""The last graph tasks: what came out of each tensor, and the record that it completes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mergekit.common import ModelReference
from mergekit.graph import Task
from torch import Tensor

from mergekit_omp.approximation.fit import FITS, Fit
from mergekit_omp.pursuit import Code
from mergekit_omp.record.id_ranges import written
from mergekit_omp.record.row_facts import RowFacts
from mergekit_omp.transplant.merge import Merge
from mergekit_omp.transplant.row_plan import HOLDS_PLANS, EncodeMissing, vocabulary_first
from mergekit_omp.transplant.tasks import AlignedVocabulary, InputKey

_ROWS_AT_ONCE = 8192
_FACTS = "facts"
"""The key of a tensor's `RowFacts` among its statistics."""


@dataclass(frozen=True, eq=False)
class PlannedRecord:
    """`tokenizer_transplant.json`, without what only the run can tell."""

    content: dict[str, Any]


class TensorStatistics(Task[list[dict[str, Any]]]):
    """Measures one aligned vocabulary tensor, model by model, for the record."""

    model_config = HOLDS_PLANS

    aligned: AlignedVocabulary

    def arguments(self) -> dict[str, Task]:
        inputs = self.aligned.donor_inputs().items()
        codes = {str(key): task for key, task in inputs if isinstance(task, EncodeMissing)}
        return {"tensors": self.aligned, **codes}

    def priority(self) -> int:
        # Runs right after the alignment, so that the tensor is not kept in memory for this.
        return 2000

    def group_label(self) -> str | None:
        return self.aligned.group_label()

    def execute(
        self, tensors: dict[ModelReference, Tensor], **codes: dict[str, Any]
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for i, plan in enumerate(self.aligned.plans):
            if plan.model not in tensors:
                found.append({})
                continue
            matrix = vocabulary_first(tensors[plan.model], self.aligned.vocabulary_axis)
            filled = [served.rows for served in plan.approximated]
            approximated = np.concatenate(filled) if filled else np.empty(0, dtype=np.int64)
            statistics: dict[str, Any] = {
                "row_norms": {
                    "copied": _summary(_norms(matrix, plan.copied_to)),
                    "approximated": _summary(_norms(matrix, approximated)),
                }
            }
            fitted, support = defaultdict(list), []
            facts = RowFacts.of(
                plan.rows, plan.copied_to, filled, plan.without_donor_row, plan.overrides
            )
            for j, served in enumerate(plan.approximated):
                code = codes.get(str(InputKey("code", i, j)))
                if code is not None:
                    support.append(Code.from_tensors(code).support_sizes().double())
                for key, figures in served.row_fit.items():
                    fitted[key].append(figures.double())
                    facts.fit[served.rows] = figures.numpy()
            if plan.approximated:
                # Of the donor that serves most rows, where there are several.
                most = max(plan.approximated, key=lambda served: len(served.rows))
                statistics["in_force"] = most.in_force
            statistics[_FACTS] = facts
            for key, parts in fitted.items():
                together = torch.cat(parts)
                statistics[key] = _summary(together[~together.isnan()], FITS[key])
            if support:
                statistics["support_size"] = _summary(torch.cat(support))
            found.append(statistics)
        return found


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

    def execute(self, **statistics: list[dict[str, Any]]) -> None:
        measured: dict[str, list[dict[str, Any]]] = defaultdict(list)
        new_rows: dict[str, list[np.ndarray]] = defaultdict(list)
        for i, task in enumerate(self.statistics):
            for plan, of_model in zip(
                task.aligned.plans, statistics[f"statistics_{i}"], strict=True
            ):
                name = str(plan.model)
                measured[name].append(of_model)
                new_rows[name] += [served.rows for served in plan.approximated]
                new_rows[name].append(plan.without_donor_row)
        planned = self.planned.content
        facts: dict[tuple[int, int], RowFacts] = {}
        models = []
        for m, model in enumerate(planned["models"]):
            name = model["model"]
            tensors = []
            for t, (entry, of_model) in enumerate(
                zip(model["tensors"], measured[name], strict=True)
            ):
                tensors.append(_with_measured(entry, of_model))
                if _FACTS in of_model:
                    facts[m, t] = of_model[_FACTS]
            complete = {**model, "tensors": tensors}
            if new_rows[name]:
                complete["approximated_ids"] = written(np.concatenate(new_rows[name]))
            models.append(complete)
        warnings = list(dict.fromkeys([*planned["warnings"], *self.merge.log.run_warnings()]))
        self.merge.record = {**planned, "models": models, "warnings": warnings}
        self.merge.row_facts = facts


def _with_measured(planned: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """A tensor's entry, with the parameters' values in force in place of those written."""
    in_force = {**planned["parameters"], **measured.get("in_force", {})}
    rest = {key: value for key, value in measured.items() if key not in ("in_force", _FACTS)}
    return {**planned, "parameters": in_force, **rest}
