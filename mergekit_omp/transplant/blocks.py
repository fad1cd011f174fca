"""Graph tasks for blocks of the missing tokens, which mergekit spreads over several devices.

Its executor for them (`--multi-gpu`) gives all parallel tasks that depend on one another to one
device. So blocks have nothing in common but what they load, which every device loads for itself;
and what comes after them, up to the saved tensor, is left to the main thread, when all have ended.
Each block computes anew what blocks share, at the same time as the others. Where that is much of the
work, devices are shared out among the tensors first, so that none does it twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from mergekit.common import ModelReference
from mergekit.graph import Task
from mergekit.io.tasks import LoadTensor
from torch import Tensor

from mergekit_omp.approximation.base import Approximation, Texts
from mergekit_omp.pursuit import Code
from mergekit_omp.pursuit.cuts import BLOCK
from mergekit_omp.transplant.log import MergeLog
from mergekit_omp.transplant.row_plan import (
    HOLDS_PLANS,
    ApproximatedRows,
    CodingRows,
    EncodeMissing,
    vocabulary_first,
)
from mergekit_omp.transplant.running import running
from mergekit_omp.transplant.tasks import AlignedVocabulary


@dataclass(frozen=True)
class Devices:
    """What a merge is spread over."""

    count: int
    kind: str
    """As torch calls them; by that name alone, the first of them."""


def cut(missing: int, blocks: int) -> list[slice]:
    """`range(missing)` in so many blocks of nearly the same size, cut at multiples of `BLOCK`.

    Fewer where there are not enough tokens, but at least one.
    """
    units = -(-missing // BLOCK)
    count = max(1, min(blocks, units))
    ends = [min(units * i // count * BLOCK, missing) for i in range(count + 1)]
    return [slice(*bounds) for bounds in pairwise(ends)]


class LoadOnEachDevice(LoadTensor):
    """mergekit's own task, run by each device. It comes first, and so do the blocks that wait for
    it: of equal islands, mergekit's executor gives one to each device in turn."""

    per_gpu: bool = True

    def group_label(self) -> str | None:
        return None


def on_each_device(task: LoadTensor | None) -> LoadOnEachDevice | None:
    """The same by that task; None where there is none."""
    return None if task is None else LoadOnEachDevice(**{**dict(task), "per_gpu": True})


class ApproximateBlock(Task[dict[str, Any]]):
    """The rows of some of the missing tokens of one tensor of one model."""

    model_config = HOLDS_PLANS

    base: LoadOnEachDevice | None
    """Loads the model's own tensor, which every model of a plan has."""
    base_axis: int
    donor: LoadOnEachDevice | None
    other_matrix: LoadOnEachDevice | None
    served: ApproximatedRows
    """With the coding of the block alone."""
    dtype: torch.dtype | None
    """That of the rows; None for the method's own."""
    log: MergeLog

    def arguments(self) -> dict[str, Task]:
        tasks = {"base": self.base, "donor": self.donor, "other_matrix": self.other_matrix}
        return {name: task for name, task in tasks.items() if task is not None}

    def uses_accelerator(self) -> bool:
        return True

    def execute(
        self,
        base: Tensor,
        donor: Tensor | None = None,
        other_matrix: Tensor | None = None,
        **_kwargs: Any,
    ) -> dict[str, Any]:
        served = self.served
        with running(self.log):
            inputs = served.inputs(donor, other_matrix)
            matrix = vocabulary_first(base, self.base_axis)
            problem = served.problem(matrix, inputs)
            rows = served.approximation.approximate(problem)
        if self.dtype is not None:
            rows = rows.to(self.dtype)
        return {"rows": rows, "in_force": inputs.in_force, "row_fit": inputs.row_fit}


class _Joined(Task[dict[str, Any]]):
    """Puts the results of blocks together, in the main thread."""

    model_config = HOLDS_PLANS

    def uses_accelerator(self) -> bool:
        # So that they come to one device.
        return True

    def main_thread_only(self) -> bool:
        return True


class JoinedCode(_Joined):
    """The code of all missing tokens, as `EncodeMissing` would have made it."""

    blocks: tuple[EncodeMissing, ...]

    def arguments(self) -> dict[str, Task]:
        return _numbered(self.blocks)

    def execute(self, **blocks: dict[str, Any]) -> dict[str, Any]:
        found = [blocks[name] for name in self.arguments()]
        codes = [Code.from_tensors(block) for block in found]
        return {**type(codes[0]).join(codes).to_tensors(), **_told(found)}


class JoinedRows(_Joined):
    """The rows of all missing tokens of one tensor of one model."""

    blocks: tuple[ApproximateBlock, ...]

    def arguments(self) -> dict[str, Task]:
        return _numbered(self.blocks)

    def execute(self, **blocks: dict[str, Any]) -> dict[str, Any]:
        found = [blocks[name] for name in self.arguments()]
        return {"rows": torch.cat([block["rows"] for block in found]), **_told(found)}


def _numbered(blocks: Sequence[Task]) -> dict[str, Task]:
    return {f"block_{i}": block for i, block in enumerate(blocks)}


def _told(blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the method told of its run: blocks agree on parameters, and each has fits of its own."""
    first = blocks[0]
    fits = {key: torch.cat([block["row_fit"][key] for block in blocks]) for key in first["row_fit"]}
    return {"in_force": first["in_force"], "row_fit": fits}


class VocabularyOfBlocks(AlignedVocabulary):
    """An aligned tensor whose missing rows are made in blocks.

    Left to the main thread, which gives its tasks no GPU: so it asks for one itself. It also loads
    the models' tensors itself, or mergekit would hold them from the start.
    """

    device: str

    def arguments(self) -> dict[str, Task]:
        return {str(key): task for key, task in self.donor_inputs().items()}

    def main_thread_only(self) -> bool:
        return True

    def execute(
        self, tensors: dict[ModelReference, Tensor] | None = None, **inputs: Any
    ) -> dict[ModelReference, Tensor]:
        gather = self.gather_tensors
        loaded = {name: task.execute() for name, task in gather.arguments().items()}
        found = {model: t.to(self.device) for model, t in gather.execute(**loaded).items()}
        del loaded
        return super().execute(found, **inputs)


class Blocks:
    """Plans the blocks of one merge, whose missing rows make so many problems."""

    def __init__(self, devices: Devices, problems: int, log: MergeLog):
        self.devices = devices
        self._problems = problems
        self._log = log
        self._codes: dict[int, JoinedCode] = {}
        self._texts: dict[int, list[Texts]] = {}

    def of(
        self, served: ApproximatedRows, base: LoadTensor, base_axis: int, dtype: torch.dtype
    ) -> ApproximatedRows:
        """`served` by blocks; `base` loads the model's own tensor, `dtype` is the aligned one's."""
        if not served.approximation.in_blocks:
            return served
        if served.encode is not None:
            # Tensors whose codes are equal share one task.
            assert isinstance(served.encode, EncodeMissing)
            key = id(served.encode)
            if key not in self._codes:
                self._codes[key] = self._encoded(served.encode)
            return replace(served, encode=self._codes[key])
        donor, other = map(on_each_device, (served.donor, served.other_matrix))
        blocks = tuple(
            ApproximateBlock(
                base=on_each_device(base),
                base_axis=base_axis,
                donor=donor,
                other_matrix=other,
                served=replace(served, coding=coding, in_force={}, row_fit={}),
                dtype=None if served.approximation.rescale_norms else dtype,
                log=self._log,
            )
            for coding in self._cut(served.coding, served.approximation)
        )
        return replace(served, by_blocks=JoinedRows(blocks=blocks))

    def _encoded(self, whole: EncodeMissing) -> JoinedCode:
        donor = on_each_device(whole.donor)
        return JoinedCode(
            blocks=tuple(
                whole.model_copy(update={"donor": donor, "coding": coding})
                for coding in self._cut(whole.coding, whole.approximation)
            )
        )

    def _cut(self, coding: CodingRows, method: Approximation) -> list[CodingRows]:
        """The blocks of a problem; tensors of the same texts get the same texts of blocks."""
        share = self._problems if method.repeats_in_blocks else 1
        parts = cut(len(coding.targets), self.devices.count // share)
        texts = coding.texts
        if texts is not None and id(texts) not in self._texts:
            self._texts[id(texts)] = texts.blocks(parts)
        return coding.blocks(parts, None if texts is None else self._texts[id(texts)])
