"""Plans the output's tokenizer, and where every row of its vocabulary tensors comes from.

A plan is made in five steps, each a function that returns a frozen value. Before mergekit plans,
the config is read (`request.read_request`), and `plan_output` has the output's tokenizer built
(`output_vocabulary`) and its rows counted (`output_rows`). Afterwards the rows are planned
(`plan_rows`) and the tasks are made (`task_planning.plan_tasks`). Whatever is wrong with the
config, the tokenizers or the vocabulary tensors is found here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import transformers
from mergekit.architecture import ConfiguredModelArchitecture, WeightInfo
from mergekit.common import ModelReference
from mergekit.graph import Task

from mergekit_omp.models.headers import weights_are_read
from mergekit_omp.models.tensors import vocabulary_parts
from mergekit_omp.models.tokenizers import Vocabularies
from mergekit_omp.transplant.config import check_filters, parameter_errors
from mergekit_omp.transplant.control import control_tokens
from mergekit_omp.transplant.inputs import MergeInputs, Warnings
from mergekit_omp.transplant.log import MergeLog
from mergekit_omp.transplant.model_weights import check_weights_sum
from mergekit_omp.transplant.output_config import output_config, with_tying
from mergekit_omp.transplant.output_settings import OutputSettings, output_settings
from mergekit_omp.transplant.output_vocabulary import output_rows, output_vocabulary
from mergekit_omp.transplant.padding import left_out_padding
from mergekit_omp.transplant.request import MergeRequest
from mergekit_omp.transplant.row_planning import ModelRows, RowPlanner
from mergekit_omp.transplant.tasks import OutputTokenizer, TransplantTokenizer
from mergekit_omp.transplant.token_ids import Moves
from mergekit_omp.transplant.token_settings import Override, resolve_overrides, token_settings
from mergekit_omp.transplant.token_warnings import ModelTokens, token_warnings
from mergekit_omp.transplant.tying import tying
from mergekit_omp.transplant.vocabulary_tensors import (
    PlannedTensor,
    check_widths,
    space_of,
    vocabulary_tensors_of,
)
from mergekit_omp.vocabulary import Alignment, Vocabulary
from mergekit_omp.vocabulary.lost import lost_share


@dataclass(frozen=True, eq=False)
class PlannedOutput:
    """The output's tokenizer, rows and config, known before mergekit plans its tensors.

    `inputs` caches what is read of the models, and goes on to the next step.
    """

    request: MergeRequest
    tokenizer: transformers.PreTrainedTokenizerBase
    output: Vocabulary
    """What the tokenizer's ids stand for."""
    inputs: MergeInputs
    rows: int
    """Of its vocabulary tensors."""
    overrides: tuple[Override, ...]
    """The entries of `tokenizer: tokens:`."""
    base_alignment: Alignment
    """Which of the base's token ids belongs to each output id."""
    moves: Moves
    """The same in the other direction."""
    config: transformers.PretrainedConfig
    """The output's config, but for what `tying` finds out."""
    lost: float
    """As in `TransplantPlan`."""

    def tokenizer_task(self) -> TransplantTokenizer:
        """The task that gives mergekit the tokenizer, in place of its own."""
        request = self.request
        return TransplantTokenizer(
            base_model=request.base,
            referenced_models=request.models,
            tokenizer_source=request.source,
            add_tokens=(),
            trust_remote_code=request.options.trust_remote_code,
            output=OutputTokenizer(self.tokenizer),
        )


@dataclass(frozen=True, eq=False)
class TensorRows:
    """The rows of one vocabulary tensor of the output, model by model."""

    planned: PlannedTensor
    models: tuple[ModelRows, ...]
    """In the order of `planned.models`."""

    def of(self, model: ModelReference) -> ModelRows:
        """Those of one model. KeyError where it has no such tensor."""
        for rows in self.models:
            if rows.plan.model == model:
                return rows
        raise KeyError(model)


@dataclass(frozen=True, eq=False)
class TransplantPlan:
    """The plan of a merge by one of our methods."""

    request: MergeRequest
    tokenizer: transformers.PreTrainedTokenizerBase
    output: Vocabulary
    """What the tokenizer's ids stand for."""
    inputs: MergeInputs
    rows: int
    """Of the output's vocabulary tensors."""
    tensors: tuple[TensorRows, ...]
    """The vocabulary tensors of the output, each after the one that it follows."""
    weights: tuple[tuple[WeightInfo, Task], ...]
    """All tensors of the output with mergekit's tasks, in its order."""
    tokens: Mapping[ModelReference, ModelTokens]
    """Where control tokens get their rows from, for each model with a vocabulary tensor."""
    config: transformers.PretrainedConfig
    """The output's config."""
    settings: OutputSettings
    lost: float
    """The share of a sample text's positions at which a token ends that only the base had."""
    warnings: tuple[str, ...]

    def of(self, model: ModelReference) -> list[ModelRows]:
        """The rows of a model's vocabulary tensors; empty where the merge reads none of them."""
        return [tensor.of(model) for tensor in self.tensors if model in tensor.planned.models]

    def entries(self, model: ModelReference) -> list[dict[str, Any]]:
        """The record's entries for a model's vocabulary tensors."""
        return [rows.entry for rows in self.of(model)]


def plan_output(request: MergeRequest) -> PlannedOutput:
    """Build the output's tokenizer, count its rows, and complete its config.

    Raises TransplantError for tokenizers, tokens or settings that cannot be used.
    """
    vocabularies = Vocabularies(request.options)
    settings = token_settings(request.config)
    found = output_vocabulary(
        request.source, request.base, request.models, settings, vocabularies, request.options
    )
    warnings = Warnings(logged=weights_are_read())
    inputs = MergeInputs(found.vocabulary, found.gained, vocabularies, request.options, warnings)
    warnings.add_all([*request.warnings, *found.warnings])
    rows = output_rows(request.config, request.source, request.method.approximation.name, inputs)
    overrides = resolve_overrides(settings, found.vocabulary, request.models, vocabularies)
    alignment = inputs.alignment(vocabularies.vocabulary(request.base))
    moves = Moves(alignment)
    complete = output_config(request, found.tokenizer, rows, moves)
    warnings.add_all(complete.warnings)
    return PlannedOutput(
        request=request,
        tokenizer=found.tokenizer,
        output=found.vocabulary,
        inputs=inputs,
        rows=rows,
        overrides=tuple(overrides),
        base_alignment=alignment,
        moves=moves,
        config=complete.config,
        lost=lost_share(vocabularies.vocabulary(request.base), found.vocabulary),
    )


def plan_rows(
    planned: PlannedOutput, weights: Sequence[tuple[WeightInfo, Task]], log: MergeLog
) -> TransplantPlan:
    """Plan where the rows of the vocabulary tensors come from.

    `weights` are all tensors of the output with the tasks that mergekit has planned for them.
    Raises TransplantError for tensors, donors or parameters that cannot be used.
    """
    request, inputs, warnings = planned.request, planned.inputs, planned.inputs.warnings
    check_weights_sum(request.method, [task for _, task in weights])
    warnings.add_all(check_filters(request.config, [weight.name for weight, _ in weights]))
    architecture = ConfiguredModelArchitecture(info=request.architecture, config=planned.config)
    tensors = vocabulary_tensors_of(weights, architecture, planned.tokenizer_task())
    check_widths(request.method.spec.name, tensors, inputs)
    _warn_of_padding(planned, tensors)
    parts = vocabulary_parts(architecture).values()
    head = tying(planned.config, request.base, parts, tensors, inputs)
    warnings.add_all(head.warnings)
    tensors = [tensor for tensor in tensors if tensor.weight.name != head.repeated]
    rows = _rows(planned, tensors, head.tied, log)
    settings = output_settings(
        request.base, planned.tokenizer, planned.base_alignment, planned.moves
    )
    tokens = _tokens(planned, rows)
    told = token_warnings(planned.output, planned.tokenizer, [*tokens.values()])
    warnings.add_all([*settings.warnings, *told])
    return TransplantPlan(
        request=request,
        tokenizer=planned.tokenizer,
        output=planned.output,
        inputs=inputs,
        rows=planned.rows,
        tensors=rows,
        weights=tuple((w, task) for w, task in weights if w.name != head.repeated),
        tokens=MappingProxyType(tokens),
        config=planned.config if head.says is None else with_tying(planned.config, head.says),
        settings=settings,
        lost=planned.lost,
        warnings=tuple(warnings.messages),
    )


def _rows(
    planned: PlannedOutput, tensors: list[PlannedTensor], tied: bool, log: MergeLog
) -> tuple[TensorRows, ...]:
    request = planned.request
    owners = (request.base,) if request.source == "base" else request.models
    planner = RowPlanner(
        planned.inputs, request.source, owners, planned.overrides, planned.rows, log
    )
    found = []
    for tensor in tensors:
        with parameter_errors(request.method.spec.name, tensor.weight.name):
            approximation = request.method.build(dict(tensor.task.parameters.items()))
        rows = planner.plan(tensor, space_of(tensor, tensors), approximation, tied)
        found.append(TensorRows(tensor, rows))
    return tuple(found)


def _tokens(
    planned: PlannedOutput, tensors: Iterable[TensorRows]
) -> dict[ModelReference, ModelTokens]:
    """Of each model its first vocabulary tensor decides."""
    vocabularies = planned.inputs.vocabularies
    firsts: dict[ModelReference, ModelRows] = {}
    for tensor in tensors:
        for rows in tensor.models:
            firsts.setdefault(rows.plan.model, rows)
    gained = frozenset(planned.inputs.gained)
    return {
        model: ModelTokens(
            model,
            vocabularies.vocabulary(model),
            vocabularies.tokenizer(model),
            tuple(
                control_tokens(vocabularies, firsts[model].plan, firsts[model].alignment, gained)
            ),
        )
        for model in planned.request.models
        if model in firsts
    }


def _warn_of_padding(planned: PlannedOutput, tensors: Iterable[PlannedTensor]) -> None:
    base, inputs = planned.request.base, planned.inputs
    held = [tensor.models[base] for tensor in tensors if base in tensor.models]
    rows = max((inputs.rows(tensor).count for tensor in held), default=0)
    tokens = inputs.vocabularies.vocabulary(base).size
    if rows > tokens and rows > planned.rows == planned.output.size:
        inputs.warnings.add(
            left_out_padding(
                base, rows=rows, tokens=tokens, kept=planned.rows, source=planned.request.source
            )
        )
