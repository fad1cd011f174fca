"""Finds the vocabulary tensors among those that mergekit has planned, and checks their sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergekit.architecture import ConfiguredModelArchitecture, WeightInfo
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.graph import Task
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions
from mergekit.tokenizer import BuildTokenizer, PermutedVocabulary

from mergekit_omp.approximation.base import Part
from mergekit_omp.errors import TransplantError
from mergekit_omp.models.tensors import PER_LAYER, VocabularyTensor, vocabulary_parts
from mergekit_omp.transplant.inputs import MergeInputs


@dataclass(frozen=True, eq=False)
class PlannedTensor:
    """One vocabulary tensor of the output, as mergekit has planned it."""

    weight: WeightInfo
    part: Part
    task: ExecuteMergeMethodTask
    models: dict[ModelReference, VocabularyTensor]
    """The tensor of each model that has it, in the order of the merge."""

    @property
    def permuted(self) -> PermutedVocabulary:
        """mergekit's task that our alignment replaces."""
        assert isinstance(self.task.gather_tensors, PermutedVocabulary)
        return self.task.gather_tensors


def vocabulary_tensors_of(
    planned: Sequence[tuple[WeightInfo, Task]],
    architecture: ConfiguredModelArchitecture,
    tokenizer_task: BuildTokenizer,
) -> list[PlannedTensor]:
    """The planned tensors that have one row per token; per-layer embeddings come last."""
    parts = vocabulary_parts(architecture)
    tensors = []
    for weight, task in planned:
        if not isinstance(task, ExecuteMergeMethodTask):
            continue
        per_layer = weight.name.endswith(PER_LAYER)
        if per_layer and not isinstance(task.gather_tensors, PermutedVocabulary):
            task = _permuted(task, tokenizer_task)
        permuted = task.gather_tensors
        if not isinstance(permuted, PermutedVocabulary):
            continue
        part = Part.INPUT if per_layer else parts[weight.name]
        models = {}
        for model in task.model_order:
            info = permuted.gather_tensors.weight_info[model].model_copy(
                update={"vocabulary_axis": permuted.vocabulary_axis}
            )
            tensor = VocabularyTensor(model=model, weight=info, part=part)
            if tensor.stored(tied=True):
                models[model] = tensor
        tensors.append(PlannedTensor(weight, part, task, models))
    # An inferred definition may name a per-layer embedding before the embedding that it follows.
    return sorted(tensors, key=lambda tensor: tensor.weight.name.endswith(PER_LAYER))


def space_of(tensor: PlannedTensor, tensors: list[PlannedTensor]) -> PlannedTensor:
    """The tensor in which the anchors of `tensor` must have usable rows.

    That is `tensor` itself, the head for a head bias, or the input embedding for a per-layer one.
    Raises TransplantError where there is no such tensor.
    """
    per_layer = tensor.weight.name.endswith(PER_LAYER)
    if tensor.part != Part.HEAD_BIAS and not per_layer:
        return tensor
    for part in (Part.INPUT,) if per_layer else (Part.HEAD, Part.INPUT):
        for other in tensors:
            if other.part == part and set(tensor.models) <= set(other.models):
                return other
    raise TransplantError(
        f"{tensor.weight.name} has no vocabulary matrix beside it to follow; the architecture is "
        "not one that can be transplanted."
    )


def check_models(
    config: MergeConfiguration,
    models: Sequence[ModelReference],
    architecture: ConfiguredModelArchitecture,
    options: MergeOptions,
) -> None:
    """Refuse models whose configs differ in hidden size or number of layers."""
    configs = {model: model.config(trust_remote_code=options.trust_remote_code) for model in models}
    parts = vocabulary_parts(architecture)
    entry = next((name for name, part in parts.items() if part == Part.INPUT), "a row")
    sizes = {
        model: getattr(config.get_text_config(), "hidden_size", None)
        for model, config in configs.items()
    }
    _refuse_different(config.merge_method, f"the rows of {entry} have different lengths", sizes)
    for name, module in architecture.info.modules.items():
        named = (config.modules or {}).get(name, config).models
        layers = {
            entry.model: module.architecture.num_layers(configs[entry.model])
            for entry in named or ()
        }
        _refuse_different(config.merge_method, "the numbers of layers differ", layers)


def check_widths(method: str, tensors: Sequence[PlannedTensor], inputs: MergeInputs) -> None:
    """Refuse models whose vocabulary tensors have rows of different lengths."""
    for tensor in tensors:
        _refuse_different(
            method,
            f"the rows of {tensor.weight.name} have different lengths",
            {model: inputs.rows(held).width for model, held in tensor.models.items()},
        )


def _permuted(
    task: ExecuteMergeMethodTask, tokenizer_task: BuildTokenizer
) -> ExecuteMergeMethodTask:
    """`task` as mergekit would plan it if it knew that the tensor is one of the vocabulary."""
    permuted = PermutedVocabulary(
        gather_tensors=task.gather_tensors,
        tokenizer_task=tokenizer_task,
        tokens=None,
        pad_to_multiple_of=None,
        base_model=task.base_model,
        vocabulary_axis=0,
    )
    return task.model_copy(update={"gather_tensors": permuted})


def _refuse_different(method: str, what: str, sizes: Mapping[ModelReference, int | None]) -> None:
    if len(set(sizes.values())) < 2:
        return
    found = ", ".join(f"{size} in {model}" for model, size in sizes.items())
    raise TransplantError(
        f"merge_method {method!r}: {what} ({found}), so that these models "
        "cannot be merged. Leave one out, or name it as `tokenizer_source:`, for which any "
        "size will do."
    )
