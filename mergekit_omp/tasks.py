"""Graph tasks: the output's tokenizer, codes of missing tokens, aligned tensors, the record.

Plans are computed before the graph runs and ride along in the tasks; two plans are the same
only if they are one object, so a code that several models share is computed once.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from mergekit.common import ModelReference
from mergekit.graph import Task
from mergekit.io.tasks import LoadTensor
from mergekit.tokenizer import BuildTokenizer, PermutedVocabulary, TokenizerInfo
from pydantic import ConfigDict
from torch import Tensor

from mergekit_omp import merge_log
from mergekit_omp.approximation.base import (
    AnchorCoding,
    Approximation,
    Part,
    Problem,
)
from mergekit_omp.approximation.codes import from_tensors, support_sizes, to_tensors
from mergekit_omp.approximation.moments import finite_mean
from mergekit_omp.errors import TransplantError
from mergekit_omp.report import row_facts
from mergekit_omp.report.id_ranges import written
from mergekit_omp.space_plan import SpacePlan as SpacePlan
from mergekit_omp.space_plan import vocabulary_first as vocabulary_first

_ROWS_AT_ONCE = 8192
_HOLDS_PLANS = ConfigDict(arbitrary_types_allowed=True, frozen=True)


@dataclass(frozen=True, eq=False)
class OutputTokenizer:
    """The tokenizer that the output will have, loaded while planning."""

    tokenizer: transformers.PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Filling:
    """Missing rows of one model that one donor serves."""

    rows: np.ndarray
    """Output ids."""
    approximation: Approximation
    part: Part
    plan: SpacePlan
    donor: LoadTensor | None
    donor_axis: int
    encode: EncodeMissing | None
    companion: LoadTensor | None = None
    """The donor's other matrix, where the approximation asks for it and there is one."""
    companion_axis: int = 0


@dataclass(frozen=True, eq=False)
class RowPlan:
    """Where each row of one model's aligned tensor comes from."""

    model: ModelReference
    rows: int
    copied_to: np.ndarray
    copied_from: np.ndarray
    fillings: tuple[Filling, ...]
    unserved: np.ndarray
    """Output ids that no donor has a usable row for: they get the mean of the model's rows."""
    overrides: tuple[tuple[int, ModelReference | None, int], ...]
    """(output id, model, row) from `tokenizer: tokens:`; a row of zeros without a model."""
    padding: np.ndarray
    """Output ids without a token: they get the mean of the token rows, as mergekit does."""


class TransplantTokenizer(BuildTokenizer):
    """mergekit's tokenizer task, with the tokenizer that planning has already built."""

    model_config = _HOLDS_PLANS

    output: OutputTokenizer

    def execute(self, **_kwargs: Any) -> TokenizerInfo:
        return TokenizerInfo(tokenizer=self.output.tokenizer, permutations={}, original_vocabs={})


class EncodeMissing(Task[dict[str, Tensor]]):
    """Codes of missing tokens in the donor's space, for all models of one vocabulary."""

    model_config = _HOLDS_PLANS

    donor: LoadTensor | None
    donor_axis: int
    approximation: Approximation
    plan: SpacePlan

    def arguments(self) -> dict[str, Task]:
        return {} if self.donor is None else {"donor": self.donor}

    def uses_accelerator(self) -> bool:
        return True

    def execute(self, donor: Tensor | None = None, **_kwargs: Any) -> dict[str, Tensor]:
        assert isinstance(self.approximation, AnchorCoding)
        if donor is not None:
            donor = vocabulary_first(donor, self.donor_axis)
        space = self.plan.space(self.approximation.needs, donor)
        try:
            with merge_log.speaking(running=True):
                code = self.approximation.encode(space)
        except ValueError as error:
            raise TransplantError(f"merge_method {self.approximation.name!r}: {error}.") from error
        # A plain dict, since the executor moves tensors between devices in these alone.
        result = to_tensors(code)
        if space.targets is not None:
            result["target_norms"] = space.targets.float().norm(dim=1)
        return result


class AlignedVocabulary(PermutedVocabulary):
    """Every model's tensor in the output's vocabulary: copied where shared, else approximated."""

    model_config = _HOLDS_PLANS

    plans: tuple[RowPlan, ...]

    def arguments(self) -> dict[str, Task]:
        tasks: dict[str, Task] = {"tensors": self.gather_tensors}
        for name, task in self._donor_tasks():
            tasks[name] = task
        return tasks

    def _donor_tasks(self) -> list[tuple[str, Task]]:
        tasks: list[tuple[str, Task]] = []
        for i, plan in enumerate(self.plans):
            for j, filling in enumerate(plan.fillings):
                if filling.encode is not None:
                    tasks.append((f"code_{i}_{j}", filling.encode))
                elif filling.donor is not None:
                    tasks.append((f"donor_{i}_{j}", filling.donor))
                if filling.companion is not None:
                    tasks.append((f"companion_{i}_{j}", filling.companion))
        return tasks

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
                {kind: inputs.get(f"{kind}_{i}_{j}") for kind in ("code", "donor", "companion")}
                for j in range(len(plan.fillings))
            ]
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
    for filling, inputs in zip(plan.fillings, given, strict=True):
        rows = _approximated(filling, base, **inputs)
        aligned[index(filling.rows)] = rows.to(base.device, aligned.dtype)
    if len(plan.unserved):
        aligned[index(plan.unserved)] = finite_mean(base).to(aligned.dtype)
    for row, model, source in plan.overrides:
        aligned[row] = 0 if model is None else matrices[model][source].to(aligned.dtype)
    if len(plan.padding):
        kept = torch.ones(plan.rows, dtype=torch.bool, device=base.device)
        kept[index(plan.padding)] = False
        aligned[~kept] = finite_mean(aligned, kept).to(aligned.dtype)
    return aligned


def _approximated(
    filling: Filling,
    base: Tensor,
    code: dict[str, Tensor] | None,
    donor: Tensor | None,
    companion: Tensor | None,
) -> Tensor:
    if code is not None:
        assert isinstance(filling.approximation, AnchorCoding)
        space = filling.plan.space(frozenset(), None)
        problem = Problem(part=filling.part, base=base, space=space)
        return filling.approximation.decode(from_tensors(code), problem)
    if donor is not None:
        donor = vocabulary_first(donor, filling.donor_axis)
    if companion is not None:
        companion = vocabulary_first(companion, filling.companion_axis)
    space = filling.plan.space(filling.approximation.needs, donor, companion)
    with merge_log.speaking(running=True):
        return filling.approximation.rows(Problem(part=filling.part, base=base, space=space))


class TensorStatistics(Task[list[dict[str, Any]]]):
    """What came out for one vocabulary tensor, model by model."""

    model_config = _HOLDS_PLANS

    aligned: AlignedVocabulary

    def arguments(self) -> dict[str, Task]:
        codes = {n: t for n, t in self.aligned._donor_tasks() if isinstance(t, EncodeMissing)}
        return {"tensors": self.aligned, **codes}

    def priority(self) -> int:
        # Right after the tensor is aligned, so that it is not kept for this alone.
        return 2000

    def group_label(self) -> str | None:
        return self.aligned.group_label()

    def execute(
        self, tensors: dict[ModelReference, Tensor], **codes: dict[str, Tensor]
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for i, plan in enumerate(self.aligned.plans):
            if plan.model not in tensors:
                found.append({})
                continue
            matrix = vocabulary_first(tensors[plan.model], self.aligned.vocabulary_axis)
            filled = [filling.rows for filling in plan.fillings]
            approximated = np.concatenate(filled) if filled else np.empty(0, dtype=np.int64)
            statistics: dict[str, Any] = {
                "row_norms": {
                    "copied": _summary(_norms(matrix, plan.copied_to)),
                    "approximated": _summary(_norms(matrix, approximated)),
                }
            }
            relative, support = [], []
            facts = row_facts.RowFacts.of(
                plan.rows, plan.copied_to, filled, plan.unserved, plan.overrides
            )
            for j, filling in enumerate(plan.fillings):
                code = codes.get(f"code_{i}_{j}")
                if code is None:
                    continue
                support.append(support_sizes(from_tensors(code)).double())
                if "target_norms" in code:
                    norms = code["target_norms"].double()
                    relative.append(
                        code["residual_norms"].double()
                        / norms.clamp(min=torch.finfo(torch.float64).tiny)
                    )
                    facts.relative_residual[filling.rows] = relative[-1].numpy(force=True)
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
    tensors: tuple[tuple[dict[str, Any], ...], ...]
    """The entries of `record` that each of the statistics belongs to, model by model."""
    generation_config: dict[str, Any]
    code: dict[str, str]
    """Files of code by name, where the tokenizer needs one to be loaded as it is."""


class WriteTransplant(Task[None]):
    """Write `generation_config.json` and `tokenizer_transplant.json`."""

    model_config = _HOLDS_PLANS

    out_path: str
    statistics: tuple[TensorStatistics, ...]
    files: OutputFiles

    def arguments(self) -> dict[str, Task]:
        return {f"statistics_{i}": task for i, task in enumerate(self.statistics)}

    def main_thread_only(self) -> bool:
        return True

    def execute(self, **statistics: list[dict[str, Any]]) -> None:
        for i, entries in enumerate(self.files.tensors):
            for entry, measured in zip(entries, statistics[f"statistics_{i}"], strict=True):
                entry.update(measured)
        self.files.record["warnings"] = list(
            dict.fromkeys([*self.files.record["warnings"], *merge_log.run_warnings()])
        )
        self._add_approximated_ids()
        os.makedirs(self.out_path, exist_ok=True)
        row_facts.save(self.out_path, self.files.record)
        for name, code in self.files.code.items():
            with open(os.path.join(self.out_path, name), "w", encoding="utf-8") as file:
                file.write(code)
        for name, content in (
            ("generation_config.json", self.files.generation_config),
            ("tokenizer_transplant.json", self.files.record),
        ):
            path = os.path.join(self.out_path, name)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=2, ensure_ascii=False, sort_keys=False)
                file.write("\n")

    def _add_approximated_ids(self) -> None:
        """Per model the output ids with a row, in any tensor, that is not one of its own."""
        found: dict[str, np.ndarray] = {}
        for statistics in self.statistics:
            for plan in statistics.aligned.plans:
                new = [filling.rows for filling in plan.fillings]
                name = str(plan.model)
                found[name] = np.concatenate([*new, plan.unserved, found.get(name, plan.unserved)])
        for model in self.files.record["models"]:
            if model["model"] in found:
                model["approximated_ids"] = written(found[model["model"]])
