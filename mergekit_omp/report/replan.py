"""The merge planned once more, so that a report knows rows and anchors exactly as the merge did.

Nothing is written and nothing is downloaded. Of the models, tokenizers and vocabulary tensors are
read.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from jaxtyping import Shaped
from mergekit import architecture as architectures
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache, LoadTensor
from mergekit.merge import _model_out_config
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from torch import Tensor

from mergekit_omp.approximation import APPROXIMATIONS
from mergekit_omp.errors import TransplantError
from mergekit_omp.outside.faults import of_library
from mergekit_omp.outside.files import parsed_yaml
from mergekit_omp.transplant.methods import find
from mergekit_omp.transplant.planning import TransplantPlan
from mergekit_omp.transplant.row_plan import RowPlan, vocabulary_first
from mergekit_omp.transplant.tasks import AlignedVocabulary
from mergekit_omp.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class PlannedRows:
    """One vocabulary tensor of one model of the merge."""

    plan: RowPlan
    output_name: str
    """The output's name for the tensor."""
    vocabulary: Vocabulary
    """The model's vocabulary."""
    load: LoadTensor
    axis: int

    def base(self) -> Shaped[Tensor, "base_rows dim"]:
        """The model's own rows, freshly read."""
        matrix = self.load.execute()
        assert matrix is not None
        return vocabulary_first(matrix, self.axis)


@dataclass(frozen=True, eq=False)
class Replanned:
    """A merge's plan."""

    output: Vocabulary
    tensors: dict[tuple[str, str], PlannedRows]
    """By the names of model and tensor in the record."""
    donors: dict[str, Vocabulary]
    """By the name of the donor in the record."""


def replan(config_yaml: str, options: MergeOptions, method: str | None = None) -> Replanned:
    """Plans the merge of a config, with another approximation where `method` names one.

    Raises TransplantError where the models are no longer there, or the config is no merge's.
    """
    settings = parsed_yaml("its mergekit_config.yml", config_yaml)
    if method is not None:
        settings = _with_method(settings, method)
    with of_library("its mergekit_config.yml is no merge's config", "Merge again"):
        config = MergeConfiguration.model_validate(settings)
    if find(config.merge_method) is None:
        raise TransplantError(
            f"its mergekit_config.yml is of a merge by {config.merge_method!r}, which is "
            "mergekit's own"
        )
    architecture = architectures.get_architecture_info(config, options)
    LoaderCache().setup(options=options)
    with of_library("mergekit makes no config of it", "Merge again"):
        out_config = _model_out_config(
            config, architecture, trust_remote_code=options.trust_remote_code
        )
    level = logging.getLogger("mergekit_omp").level
    # What there was to warn of is in the record.
    logging.getLogger("mergekit_omp").setLevel(logging.ERROR)
    try:
        planner = MergePlanner(config, architecture, options, out_config)
        planner._plan()
    finally:
        logging.getLogger("mergekit_omp").setLevel(level)
    if planner._transplant is None:
        raise TransplantError(
            f"The merge method of the config ({config.merge_method}) is none of the plugin's."
        )
    transplant: TransplantPlan = planner._transplant
    tensors = {}
    for weight, task in planner._tensors:
        aligned = getattr(task, "gather_tensors", None)
        if not isinstance(aligned, AlignedVocabulary):
            continue
        for plan in aligned.plans:
            own = aligned.gather_tensors.weight_info[plan.model]
            tensors[transplant.shown(str(plan.model)), own.name] = PlannedRows(
                plan=plan,
                output_name=weight.name,
                vocabulary=transplant.vocabularies.vocabulary(plan.model),
                load=LoadTensor(
                    model=plan.model,
                    tensor=own.name,
                    aliases=own.aliases,
                    tied_names=own.tied_names,
                    optional=True,
                ),
                axis=aligned.vocabulary_axis,
            )
    donors = {
        served.donor.model: transplant.vocabularies.vocabulary(served.donor.model)
        for rows in tensors.values()
        for served in rows.plan.approximated
        if served.donor is not None
    }
    return Replanned(
        transplant.output, tensors, {transplant.shown(str(m)): v for m, v in donors.items()}
    )


def _with_method(settings: dict[str, Any], method: str) -> dict[str, Any]:
    """The config with another approximation, without parameters which that one does not have."""
    own, plus, inner = settings["merge_method"].partition("+")
    dropped = APPROXIMATIONS[own].model_fields.keys() - APPROXIMATIONS[method].model_fields.keys()
    return {**_without(settings, dropped), "merge_method": f"{method}{plus}{inner}"}


def _without(node: Any, names: set[str]) -> Any:
    """Copies a config, every block of `parameters:` in it without those of `names`."""
    if isinstance(node, list):
        return [_without(item, names) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: {name: v for name, v in (value or {}).items() if name not in names}
        if key == "parameters"
        else _without(value, names)
        for key, value in node.items()
    }
