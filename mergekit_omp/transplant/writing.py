"""The last graph tasks: what came out of each tensor, and the files beside mergekit's own."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mergekit.common import ModelReference
from mergekit.graph import Task
from mergekit.io.tasks import FinalizeModel
from torch import Tensor

from mergekit_omp.pursuit import Code
from mergekit_omp.record import row_facts
from mergekit_omp.record.id_ranges import written
from mergekit_omp.transplant.merge import Merge
from mergekit_omp.transplant.row_plan import HOLDS_PLANS, EncodeMissing, vocabulary_first
from mergekit_omp.transplant.tasks import AlignedVocabulary, InputKey

_ROWS_AT_ONCE = 8192


class TensorStatistics(Task[list[dict[str, Any]]]):
    """What came out for one vocabulary tensor, model by model."""

    model_config = HOLDS_PLANS

    aligned: AlignedVocabulary

    def arguments(self) -> dict[str, Task]:
        inputs = self.aligned.donor_inputs().items()
        codes = {str(key): task for key, task in inputs if isinstance(task, EncodeMissing)}
        return {"tensors": self.aligned, **codes}

    def priority(self) -> int:
        # Right after the tensor is aligned, so that it is not kept for this alone.
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
            relative, support = [], []
            facts = row_facts.RowFacts.of(
                plan.rows, plan.copied_to, filled, plan.without_donor_row, plan.overrides
            )
            for j, served in enumerate(plan.approximated):
                code = codes.get(str(InputKey("code", i, j)))
                if code is None:
                    continue
                support.append(Code.from_tensors(code).support_sizes().double())
                if "target_norms" in code:
                    norms = code["target_norms"].double()
                    relative.append(
                        code["residual_norms"].double()
                        / norms.clamp(min=torch.finfo(torch.float64).tiny)
                    )
                    facts.relative_residual[served.rows] = relative[-1].numpy(force=True)
            if plan.approximated:
                # Of the donor that serves most rows, where there are several.
                most = max(plan.approximated, key=lambda served: len(served.rows))
                statistics["in_force"] = most.in_force
            statistics[row_facts.KEY] = facts
            if relative:
                statistics["relative_residual"] = _summary(torch.cat(relative))
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


def _summary(values: Tensor) -> dict[str, float] | None:
    """Mean, median, 95th percentile and largest, to six significant digits."""
    if not len(values):
        return None
    ordered = values.cpu().numpy()
    figures = {
        "mean": ordered.mean(),
        "median": np.median(ordered),
        "p95": np.quantile(ordered, 0.95),
        "max": ordered.max(),
    }
    return {name: float(f"{value:.6g}") for name, value in figures.items()}


@dataclass(frozen=True, eq=False)
class OutputFiles:
    """What the output directory gains beside mergekit's own files."""

    record: dict[str, Any]
    """`tokenizer_transplant.json`, without what only the run can tell."""
    generation_config: dict[str, Any]


class WriteTransplant(Task[None]):
    """Write `generation_config.json` and `tokenizer_transplant.json`."""

    model_config = HOLDS_PLANS

    out_path: str
    merge: Merge
    statistics: tuple[TensorStatistics, ...]
    files: OutputFiles
    weights: FinalizeModel
    """What comes first: the record is of a merge whose weights are written."""

    def arguments(self) -> dict[str, Task]:
        statistics = {f"statistics_{i}": task for i, task in enumerate(self.statistics)}
        return {"weights": self.weights, **statistics}

    def main_thread_only(self) -> bool:
        return True

    def execute(self, weights: None, **statistics: list[dict[str, Any]]) -> None:
        record = self._complete([statistics[f"statistics_{i}"] for i in range(len(statistics))])
        assert self.merge.output is not None
        os.makedirs(self.out_path, exist_ok=True)
        row_facts.save(self.out_path, record)
        self.merge.record = record
        for name, content in (
            ("generation_config.json", self.files.generation_config),
            ("tokenizer_transplant.json", self.merge.output.shown.of(record)),
        ):
            path = os.path.join(self.out_path, name)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=2, ensure_ascii=False, sort_keys=False)
                file.write("\n")

    def _complete(self, statistics: list[list[dict[str, Any]]]) -> dict[str, Any]:
        """The record of the plan, with what only the run could tell: `statistics` of each tensor."""
        measured: dict[str, list[dict[str, Any]]] = defaultdict(list)
        new_rows: dict[str, list[np.ndarray]] = defaultdict(list)
        for task, found in zip(self.statistics, statistics, strict=True):
            for plan, of_model in zip(task.aligned.plans, found, strict=True):
                name = str(plan.model)
                measured[name].append(of_model)
                new_rows[name] += [served.rows for served in plan.approximated]
                new_rows[name].append(plan.without_donor_row)
        planned = self.files.record
        models = []
        for model in planned["models"]:
            name = model["model"]
            told = zip(model["tensors"], measured[name], strict=True)
            complete = {**model, "tensors": [_with_measured(*both) for both in told]}
            if new_rows[name]:
                complete["approximated_ids"] = written(np.concatenate(new_rows[name]))
            models.append(complete)
        warnings = [*planned["warnings"], *self.merge.log.run_warnings()]
        return {**planned, "models": models, "warnings": list(dict.fromkeys(warnings))}


def _with_measured(planned: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """A tensor's entry, with the parameters' values in force in place of those written."""
    in_force = {**planned["parameters"], **measured.get("in_force", {})}
    rest = {key: value for key, value in measured.items() if key != "in_force"}
    return {**planned, "parameters": in_force, **rest}
