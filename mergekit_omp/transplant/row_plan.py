"""The plan of the rows of one vocabulary tensor, and the task that codes missing rows.

Plans are made before the graph runs and are fields of its tasks. They compare by identity, so tasks
that hold the same plan are equal, and mergekit's graph runs a code that models share only once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from mergekit.common import ModelReference
from mergekit.graph import Task
from mergekit.io.tasks import LoadTensor
from pydantic import ConfigDict
from torch import Tensor

from mergekit_omp.approximation.base import (
    AnchorCoding,
    Approximation,
    CodingInputs,
    MissingRows,
    Needs,
    Part,
    Texts,
)
from mergekit_omp.errors import TransplantError
from mergekit_omp.transplant.log import MergeLog
from mergekit_omp.transplant.running import running

HOLDS_PLANS = ConfigDict(arbitrary_types_allowed=True, frozen=True)


@dataclass(frozen=True, eq=False)
class CodingRows:
    """The rows of missing tokens and anchors in donor and base, for models of one vocabulary."""

    targets: Int[np.ndarray, "missing"]
    """The donor's row of each missing token."""
    anchors: Int[np.ndarray, "anchors"]
    """The donor's row of each anchor."""
    anchor_rows: Int[np.ndarray, "anchors"]
    """The base's row of each anchor."""
    texts: Texts | None
    """The tokens as bytes, where the method needs them."""
    progress: bool
    """Whether to show a progress bar."""
    planned_for: int | None = None
    """As in `CodingInputs`."""

    def blocks(self, parts: Sequence[slice], texts: Sequence[Texts] | None) -> list[CodingRows]:
        """The same for some of the missing tokens each; `texts` are those of `self.texts`."""
        return [
            replace(
                self,
                targets=self.targets[part],
                texts=None if texts is None else texts[i],
                planned_for=len(self.targets),
            )
            for i, part in enumerate(parts)
        ]

    def inputs(
        self, method: Approximation, donor: Tensor | None, other_matrix: Tensor | None = None
    ) -> CodingInputs:
        """The inputs of a method: of the donor's matrices, the rows that it needs."""
        if Needs.DONOR_ROWS not in method.needs or donor is None:
            return self._inputs(torch.device("cpu"))
        targets, anchors = (
            torch.from_numpy(ids).to(donor.device) for ids in (self.targets, self.anchors)
        )
        if method.reads_in_place:
            return self._inputs(
                donor.device,
                donor=donor,
                target_ids=targets,
                anchor_ids=anchors,
                other_matrix=other_matrix,
            )
        return self._inputs(
            donor.device,
            targets=donor[targets],
            anchors=donor[anchors],
            donor=donor,
            other_targets=_rows_where_there_are(other_matrix, self.targets),
            other_anchors=_rows_where_there_are(other_matrix, self.anchors),
        )

    def _inputs(self, device: torch.device, **of_donor: Any) -> CodingInputs:
        return CodingInputs(
            missing=len(self.targets),
            anchor_rows=torch.from_numpy(self.anchor_rows).to(device),
            texts=self.texts,
            progress=self.progress,
            planned_for=self.planned_for,
            **of_donor,
        )


@dataclass(frozen=True, eq=False)
class ApproximatedRows:
    """The missing rows of one model that are approximated from one donor."""

    rows: Int[np.ndarray, "missing"]
    """Their output ids."""
    approximation: Approximation
    part: Part
    tied: bool
    """Whether the tensor is the input embedding and the head."""
    coding: CodingRows
    donor: LoadTensor | None
    donor_axis: int
    encode: Task[dict[str, Any]] | None
    """Finds the code, for methods that make one: `EncodeMissing`, or a task with its result."""
    other_matrix: LoadTensor | None = None
    """Loads the donor's other matrix, where the method needs it and there is one."""
    other_axis: int = 0
    predict: Task[dict[str, Tensor]] | None = None
    """Predicts the rows of all of the model's vocabulary tensors; for hypernetworks alone."""
    by_blocks: Task[dict[str, Any]] | None = None
    """Makes the rows, where several devices do; see `blocks`."""
    in_force: dict[str, Any] = field(default_factory=dict)
    """Parameters that the method chose or reduced, by name; filled in when it has run."""
    row_fit: dict[str, Tensor] = field(default_factory=dict)
    """The figure of fit of each of `rows`, by its key; filled in when the method has run."""

    def inputs(self, donor: Tensor | None, other_matrix: Tensor | None) -> CodingInputs:
        """The method's inputs, from the donor's tensors as they are loaded."""
        if donor is not None:
            donor = vocabulary_first(donor, self.donor_axis)
        if other_matrix is not None:
            other_matrix = vocabulary_first(other_matrix, self.other_axis)
        return self.coding.inputs(self.approximation, donor, other_matrix)

    def problem(self, base: Tensor, inputs: CodingInputs) -> MissingRows:
        """The problem whose inputs these are; `base` is the model's matrix."""
        return MissingRows(part=self.part, base=base, inputs=inputs, tied=self.tied)

    def donor_matrices(self) -> tuple[Tensor | None, Tensor | None]:
        """The donor's matrix and its other one, freshly read, where the method reads them."""
        tasks = (self.donor, self.donor_axis), (self.other_matrix, self.other_axis)
        first, other = (
            None if task is None else vocabulary_first(task.execute(), axis) for task, axis in tasks
        )
        return first, other


class OverriddenRow(NamedTuple):
    """A row that `tokenizer: tokens:` gives to a token of the output."""

    output_id: int
    model: ModelReference | None
    """None for a row of zeros."""
    rows: tuple[int, ...]
    """The model's rows that are added up."""
    weights: tuple[float, ...]
    """What each of them counts."""


@dataclass(frozen=True, eq=False)
class RowPlan:
    """Where each row of one model's aligned tensor comes from."""

    model: ModelReference
    rows: int
    """Of the output's tensor."""
    copied_to: Int[np.ndarray, "copied"]
    """Output ids whose rows are copied from the model."""
    copied_from: Int[np.ndarray, "copied"]
    """The model's row for each of them."""
    approximated: tuple[ApproximatedRows, ...]
    without_donor_row: Int[np.ndarray, "without_donor_row"]
    """Output ids that no donor has a usable row for: they get the mean of the model's rows."""
    overrides: tuple[OverriddenRow, ...]
    padding: Int[np.ndarray, "padding"]
    """Output ids without a token: they get the mean of the token rows, as mergekit does."""


class EncodeMissing(Task[dict[str, Any]]):
    """Codes missing tokens in anchors in the donor's space, for all models of one vocabulary."""

    model_config = HOLDS_PLANS

    donor: LoadTensor | None
    donor_axis: int
    approximation: Approximation
    coding: CodingRows
    log: MergeLog

    def arguments(self) -> dict[str, Task]:
        return {} if self.donor is None else {"donor": self.donor}

    def uses_accelerator(self) -> bool:
        return True

    def execute(self, donor: Tensor | None = None, **_kwargs: Any) -> dict[str, Any]:
        assert isinstance(self.approximation, AnchorCoding)
        if donor is not None:
            donor = vocabulary_first(donor, self.donor_axis)
        inputs = self.coding.inputs(self.approximation, donor)
        try:
            with running(self.log):
                code = self.approximation.encode(inputs)
        except ValueError as error:
            raise TransplantError(f"merge_method {self.approximation.name!r}: {error}.") from error
        # A plain dict: mergekit's executor moves tensors between devices in no other object.
        result = code.to_tensors()
        result["in_force"], result["row_fit"] = inputs.in_force, inputs.row_fit
        return result


def _rows_where_there_are(matrix: Tensor | None, ids: np.ndarray) -> Tensor | None:
    """The rows `ids` of a matrix; NaN for ids past its end, None where there is no matrix."""
    if matrix is None:
        return None
    wanted = torch.from_numpy(ids).to(matrix.device)
    rows = matrix[wanted.clamp_max(len(matrix) - 1)]
    rows[wanted >= len(matrix)] = torch.nan
    return rows


def vocabulary_first(tensor: Tensor, axis: int) -> Tensor:
    """The tensor as a matrix with one row per token: (rows, width), with width 1 for a bias."""
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)
