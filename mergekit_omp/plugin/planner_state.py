"""What our patches keep on a `MergePlanner` between its methods."""

from __future__ import annotations

from dataclasses import dataclass

import transformers

from mergekit_omp.transplant.merge import Merge
from mergekit_omp.transplant.planning import PlannedOutput, TransplantPlan
from mergekit_omp.transplant.task_planning import MergeTasks


@dataclass(eq=False)
class PlannerState:
    """The merge that a planner plans; `plan` and `tasks` are set when mergekit has planned it."""

    merge: Merge
    out_config: transformers.PretrainedConfig
    """The config object that mergekit will save. It is changed when the whole merge is planned."""
    output: PlannedOutput
    plan: TransplantPlan | None = None
    tasks: MergeTasks | None = None
