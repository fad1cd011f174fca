"""What a planner of mergekit's holds for us from one of its calls to the next."""

from __future__ import annotations

from dataclasses import dataclass

import transformers

from mergekit_omp.transplant.merge import Merge
from mergekit_omp.transplant.planning import PlannedOutput, TransplantPlan
from mergekit_omp.transplant.task_planning import MergeTasks


@dataclass(eq=False)
class PlannerState:
    """One planner's merge; the later fields are set once mergekit has planned."""

    merge: Merge
    out_config: transformers.PretrainedConfig
    """mergekit's own object, which stays as it is until all is planned."""
    output: PlannedOutput
    plan: TransplantPlan | None = None
    tasks: MergeTasks | None = None
