"""What a plan gains: the output's tokenizer and its ids, donors, and a source for every row.

All that can be known from the config, the tokenizers and the vocabulary tensors is found out
and checked here, before mergekit writes anything.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from mergekit.architecture import ConfiguredModelArchitecture, ModelArchitecture, WeightInfo
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.graph import Task
from mergekit.io.tasks import FinalizeModel
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions

from mergekit_omp.models.headers import weights_are_read
from mergekit_omp.models.known_model import set_vocabulary_size
from mergekit_omp.models.tensors import vocabulary_parts
from mergekit_omp.models.tokenizers import Vocabularies
from mergekit_omp.record.record import transplant_record
from mergekit_omp.transplant import output
from mergekit_omp.transplant.config import (
    check_filters,
    check_modules,
    check_parameters,
    models_in_order,
    parameter_errors,
    shown_models,
    tokenizer_source,
)
from mergekit_omp.transplant.control import control_tokens
from mergekit_omp.transplant.finite import finite_merge
from mergekit_omp.transplant.inputs import MergeInputs, Warnings
from mergekit_omp.transplant.merge import Merge
from mergekit_omp.transplant.methods import TransplantMethod
from mergekit_omp.transplant.model_weights import check_weights_sum
from mergekit_omp.transplant.other_readers import TokenizerFiles, tokenizer_files
from mergekit_omp.transplant.output_settings import OutputSettings, output_settings
from mergekit_omp.transplant.output_vocabulary import output_rows, output_vocabulary
from mergekit_omp.transplant.padding import left_out_padding
from mergekit_omp.transplant.row_planning import RowPlanner
from mergekit_omp.transplant.tasks import AlignedVocabulary, OutputTokenizer, TransplantTokenizer
from mergekit_omp.transplant.token_ids import Moves, set_config_ids
from mergekit_omp.transplant.token_settings import (
    resolve_overrides,
    token_settings,
)
from mergekit_omp.transplant.token_warnings import ModelTokens, token_warnings
from mergekit_omp.transplant.tying import tying
from mergekit_omp.transplant.vocabulary_tensors import (
    PlannedTensor,
    check_models,
    check_widths,
    space_of,
    vocabulary_tensors_of,
)
from mergekit_omp.transplant.writing import OutputFiles, TensorStatistics, WriteTransplant


@dataclass(frozen=True, eq=False)
class AlignedTensor:
    """One vocabulary tensor of the output: who has it, how it is aligned, what the record says.

    `task.plans` and `entries` are in the order of `planned.models`.
    """

    planned: PlannedTensor
    task: AlignedVocabulary
    entries: tuple[dict[str, Any], ...]

    def entry(self, model: ModelReference) -> dict[str, Any]:
        """What the record says of one model's tensor."""
        return self.entries[list(self.planned.models).index(model)]


class TransplantPlan:
    """All that one merge's plan gains. Raises TransplantError for what cannot work."""

    def __init__(
        self,
        config: MergeConfiguration,
        method: TransplantMethod,
        options: MergeOptions,
        arch_info: ModelArchitecture,
        out_config: transformers.PretrainedConfig,
        merge: Merge,
    ):
        self.config = config
        self.method = method
        self.options = options
        self.out_config = out_config
        self.architecture = ConfiguredModelArchitecture(info=arch_info, config=out_config)
        self.merge = merge
        self.models = models_in_order(config)
        self.base = config.base_model or self.models[0]
        self.source = tokenizer_source(config)
        check_modules(config, arch_info.modules)
        check_parameters(config, method)
        check_models(config, self.models, self.architecture, options)
        merge.sources = self._sources()
        merge.shown = self.shown = shown_models(merge.sources, config)
        self.warnings = Warnings(logged=weights_are_read())
        self.vocabularies = Vocabularies(options)

        settings = token_settings(config)
        found = output_vocabulary(
            self.source, self.base, self.models, settings, self.vocabularies, options
        )
        self.tokenizer, self.output = found.tokenizer, found.vocabulary
        for warning in found.warnings:
            self.warnings.add(warning)
        self.sources = MergeInputs(
            self.output, found.gained, self.vocabularies, options, self.warnings
        )
        self.rows = output_rows(config, self.source, method.approximation.name, self.sources)
        overrides = resolve_overrides(settings, self.output, self.models, self.vocabularies)
        owners = [self.base] if self.source == "base" else self.models
        self.planner = RowPlanner(
            self.sources, self.source, owners, overrides, self.rows, merge.log
        )
        merge.rows = self.rows
        base = self.vocabularies.vocabulary(self.base)
        self._base_alignment = self.sources.alignment(base)
        self._moves = Moves(self._base_alignment)
        self.aligned: list[AlignedTensor] = []

    def complete_config(self) -> None:
        """Set in the output's config how many rows there are, and the ids of tokens."""
        set_vocabulary_size(self.out_config, self.rows)
        for warning in set_config_ids(self.out_config, self.tokenizer, self._moves):
            self.warnings.add(warning)

    def _sources(self) -> tuple[ModelReference, ...]:
        donors = [self.source] if isinstance(self.source, ModelReference) else []
        return tuple(dict.fromkeys([self.base, *donors, *self.models]))

    def tokenizer_task(self) -> TransplantTokenizer:
        """In place of mergekit's own task."""
        return TransplantTokenizer(
            base_model=self.base,
            referenced_models=tuple(self.models),
            tokenizer_source=self.source,
            add_tokens=(),
            trust_remote_code=self.options.trust_remote_code,
            output=OutputTokenizer(self.tokenizer),
        )

    def check_out_path(self, out_path: str) -> None:
        """Refuse an output path that would lose something of the user's."""
        donors = [self.source] if isinstance(self.source, ModelReference) else []
        output.check_out_path(out_path, [*self.models, *donors])

    def align(self, planned: list[tuple[WeightInfo, Task]]) -> list[tuple[WeightInfo, Task]]:
        """The planned tensors, those of the vocabulary with our alignment before the merge."""
        check_weights_sum(self.method, [task for _, task in planned])
        for warning in check_filters(self.config, [weight.name for weight, _ in planned]):
            self.warnings.add(warning)
        tensors = vocabulary_tensors_of(planned, self.architecture, self.tokenizer_task())
        check_widths(self.method.spec.name, tensors, self.sources)
        self._warn_of_padding(tensors)
        tied, tensors, planned = self._tied(tensors, planned)
        aligned = {
            tensor.weight.name: self._aligned(tensor, space_of(tensor, tensors), tied)
            for tensor in tensors
        }
        self.settings = output_settings(
            self.base, self.tokenizer, self._base_alignment, self._moves
        )
        models = [held for held in map(self.tokens_of, self.models) if held is not None]
        told = token_warnings(self.output, self.tokenizer, models)
        for warning in (*self.settings.warnings, *told):
            self.warnings.add(warning)
        return [
            (weight, self._finite(weight, aligned.get(weight.name, task)))
            for weight, task in planned
        ]

    def _finite(self, weight: WeightInfo, task: Task) -> Task:
        if not isinstance(task, ExecuteMergeMethodTask):
            return task
        dtype = weight.force_dtype or self.config.out_dtype
        return finite_merge(task, written_as=dtype)

    def tokens_of(self, model: ModelReference) -> ModelTokens | None:
        """What the control tokens get in one model; None where it has no vocabulary tensor."""
        for aligned in self.aligned:
            if model not in aligned.planned.models:
                continue
            plan = next(plan for plan in aligned.task.plans if plan.model == model)
            alignment = self.planner.alignments[aligned.planned.weight.name, model]
            gained = frozenset(self.sources.gained)
            return ModelTokens(
                model,
                self.vocabularies.vocabulary(model),
                self.vocabularies.tokenizer(model),
                tuple(control_tokens(self.vocabularies, plan, alignment, gained)),
            )
        return None

    def write_task(self, out_path: str, weights: FinalizeModel) -> WriteTransplant:
        """The task that writes what the output has beside mergekit's own files, after `weights`."""
        self.merge.out_path = out_path
        files = tokenizer_files(self.tokenizer, self.out_config.model_type)
        for warning in files.warnings:
            self.warnings.add(warning)
        self.merge.finish = functools.partial(
            _for_every_reader, self.settings, self.out_config, files
        )
        record = transplant_record(
            merge_method=self.method.spec.name,
            approximation=self.method.approximation.name,
            base_model=str(self.base),
            tokenizer_source=str(self.source),
            rows=self.rows,
            tokens=self.output.tokens,
            models=[{"model": str(model), "tensors": self.entries(model)} for model in self.models],
            warnings=self.warnings.messages,
        )
        return WriteTransplant(
            out_path=out_path,
            weights=weights,
            merge=self.merge,
            statistics=tuple(TensorStatistics(aligned=a.task) for a in self.aligned),
            files=OutputFiles(
                record=record,
                generation_config=self.settings.generation_config,
            ),
        )

    def entries(self, model: ModelReference) -> list[dict[str, Any]]:
        """The entries of the record on one model, tensor by tensor, once `align` has run."""
        return [a.entry(model) for a in self.aligned if model in a.planned.models]

    def _aligned(self, tensor: PlannedTensor, space: PlannedTensor, tied: bool) -> Task:
        gather = tensor.task.gather_tensors
        with parameter_errors(self.method.spec.name, tensor.weight.name):
            approximation = self.method.build(dict(tensor.task.parameters.items()))
        plans, entries = self.planner.plan(tensor, space, approximation, tied)
        aligned = AlignedVocabulary(
            gather_tensors=gather.gather_tensors,
            tokenizer_task=gather.tokenizer_task,
            tokens=None,
            pad_to_multiple_of=None,
            base_model=gather.base_model,
            vocabulary_axis=gather.vocabulary_axis,
            plans=tuple(plans),
            log=self.merge.log,
        )
        self.aligned.append(AlignedTensor(tensor, aligned, tuple(entries)))
        return tensor.task.model_copy(update={"gather_tensors": aligned})

    def _tied(
        self, tensors: list[PlannedTensor], planned: list[tuple[WeightInfo, Task]]
    ) -> tuple[bool, list[PlannedTensor], list[tuple[WeightInfo, Task]]]:
        """Whether input embedding and head are one, and what is planned, without a second one."""
        parts = vocabulary_parts(self.architecture)
        found = tying(self.out_config, self.base, parts.values(), tensors)
        for warning in found.warnings:
            self.warnings.add(warning)
        return (
            found.tied,
            [tensor for tensor in tensors if tensor.weight.name != found.repeated],
            [(weight, task) for weight, task in planned if weight.name != found.repeated],
        )

    def _warn_of_padding(self, tensors: list[PlannedTensor]) -> None:
        held = [t.models[self.base] for t in tensors if self.base in t.models]
        rows = max((self.sources.rows(tensor).count for tensor in held), default=0)
        tokens = self.vocabularies.vocabulary(self.base).size
        if rows > tokens and rows > self.rows == self.output.size:
            self.warnings.add(
                left_out_padding(
                    self.base, rows=rows, tokens=tokens, kept=self.rows, source=self.source
                )
            )


def _for_every_reader(
    settings: OutputSettings,
    config: transformers.PretrainedConfig,
    files: TokenizerFiles,
    out_path: str,
) -> None:
    """Once mergekit has written its files: have every reader take them alike."""
    settings.write(Path(out_path), config, files)
