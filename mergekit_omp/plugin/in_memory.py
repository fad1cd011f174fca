"""A merge planned and run as `mergekit-yaml` does, whose tensors stay in memory.

The steps are those of `mergekit.merge.run_merge` up to the graph; the tensors are those that its
output's files would hold, by the names that they would have there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import transformers
from jaxtyping import Int64
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.options import MergeOptions
from torch import Tensor

from mergekit_omp.errors import TransplantError
from mergekit_omp.plugin.planner_state import PlannerState
from mergekit_omp.plugin.planners import make_planner, only_errors_are_logged
from mergekit_omp.transplant.merge import Merge
from mergekit_omp.transplant.row_plan import RowPlan
from mergekit_omp.transplant.tasks import AlignedVocabulary, TensorInMemory
from mergekit_omp.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class MergeInMemory:
    """A planned merge. Its tensors are made when they are asked for."""

    config: transformers.PretrainedConfig
    """The output's config."""
    tokenizer: transformers.PreTrainedTokenizerBase
    """The output's tokenizer."""
    vocabulary: Vocabulary
    """What the output's token ids stand for."""
    rows: int
    """How many rows the output's vocabulary tensors have."""
    _planned: tuple[str, ...]
    """What planning has warned of."""
    _merge: Merge
    _options: MergeOptions
    _aligned: tuple[TensorInMemory, ...]
    _rest: tuple[TensorInMemory, ...]

    @property
    def approximated(self) -> Int64[np.ndarray, "approximated"]:
        """The ids whose row at least one of the merged models lacks, in ascending order."""
        found = [np.empty(0, dtype=np.int64)]
        for plan in self._plans():
            found += [served.rows for served in plan.approximated]
            found.append(plan.without_donor_row)
        return np.unique(np.concatenate(found))

    @property
    def warnings(self) -> list[str]:
        """What the merge has warned of so far: its plan, and what of it has run."""
        return [*self._planned, *self._merge.log.run_warnings()]

    def vocabulary_tensors(self) -> dict[str, Tensor]:
        """The tensors with a row for each token, by name."""
        return dict(self._made(self._aligned))

    def other_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The name of each of the other tensors, and the tensor, one at a time."""
        return self._made(self._rest, "merging the body")

    def _plans(self) -> Iterator[RowPlan]:
        for task in self._aligned:
            yield from task.tensor_task.gather_tensors.plans

    def _made(
        self, tasks: Sequence[TensorInMemory], bar: str | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Run the tasks, with a bar of that description; methods have bars of their own."""
        if self._options.random_seed is not None:
            transformers.set_seed(self._options.random_seed)
        device = self._options.device or "cpu"
        executor = Executor(
            list(tasks),
            math_device=device,
            storage_device=device if self._options.low_cpu_memory else "cpu",
        )
        for task, value in executor.run(quiet=bar is None or self._options.quiet, desc=bar):
            if value is not None:
                yield task.weight_info.name, value
            elif not task.weight_info.optional:
                raise TransplantError(
                    f"The merge has no value for {task.weight_info.name}, which the output needs. "
                    "Copy or download the models again, whole, or name others."
                )


def plan_in_memory(config: MergeConfiguration, options: MergeOptions) -> MergeInMemory:
    """Plan a merge by one of our methods. Raises TransplantError where mergekit-yaml would.

    What the merge warns of is not logged, but kept as its `warnings`.
    """
    # It is run by mergekit's executor for one device.
    options = options.model_copy(update={"multi_gpu": False})
    with only_errors_are_logged():
        planner = make_planner(config, options)
        state: PlannerState = planner._transplant
        tasks: list[Any] = planner.plan_in_memory()
    plan, log = state.plan, state.merge.log
    assert plan is not None
    log.quiet = True
    return MergeInMemory(
        config=plan.config,
        tokenizer=plan.tokenizer,
        vocabulary=plan.output,
        rows=plan.rows,
        _planned=plan.warnings,
        _merge=state.merge,
        _options=options,
        _aligned=tuple(task for task in tasks if _is_aligned(task)),
        _rest=tuple(task for task in tasks if not _is_aligned(task)),
    )


def _is_aligned(task: TensorInMemory) -> bool:
    return isinstance(getattr(task.tensor_task, "gather_tensors", None), AlignedVocabulary)
