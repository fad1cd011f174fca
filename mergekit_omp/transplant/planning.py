"""What a plan gains: the output's tokenizer and its ids, donors, and a source for every row.

All that can be known from the config, the tokenizers and the vocabulary tensors is found out
and checked here, before mergekit writes anything.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
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
from mergekit.tokenizer import PermutedVocabulary
from mergekit.tokenizer.config import TokenEmbeddingConfig

from mergekit_omp.approximation.base import Part
from mergekit_omp.errors import TransplantError
from mergekit_omp.models.headers import weights_are_read
from mergekit_omp.models.known_model import set_vocabulary_size
from mergekit_omp.models.tensors import PER_LAYER, VocabularyTensor, vocabulary_parts
from mergekit_omp.models.tokenizer_files import check_it_can_be_saved
from mergekit_omp.models.tokenizers import Vocabularies, load_tokenizer, read_vocabulary
from mergekit_omp.models.union import MANY, check_roles, union_tokenizer
from mergekit_omp.record.record import transplant_record
from mergekit_omp.transplant import output
from mergekit_omp.transplant.config import (
    check_filters,
    check_modules,
    check_parameters,
    match_donor_rows,
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
from mergekit_omp.transplant.padding import left_out_padding
from mergekit_omp.transplant.row_planning import PlannedTensor, RowPlanner
from mergekit_omp.transplant.tasks import AlignedVocabulary, OutputTokenizer, TransplantTokenizer
from mergekit_omp.transplant.token_ids import Moves, set_config_ids
from mergekit_omp.transplant.token_settings import (
    add_configured_tokens,
    resolve_overrides,
    token_settings,
)
from mergekit_omp.transplant.token_warnings import ModelTokens, token_warnings
from mergekit_omp.transplant.tying import tying
from mergekit_omp.transplant.writing import OutputFiles, TensorStatistics, WriteTransplant
from mergekit_omp.vocabulary import Vocabulary, digit_mismatch

MOST_PADDING = 65_536
"""A multiple that `pad_to_multiple_of` may name even where the vocabulary is smaller."""


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
        self.arch_info = arch_info
        self.out_config = out_config
        self.merge = merge
        self.models = models_in_order(config)
        self.base = config.base_model or self.models[0]
        self.source = tokenizer_source(config)
        check_modules(config, arch_info.modules)
        check_parameters(config, method)
        self._check_models()
        merge.sources = self._sources()
        merge.shown = self.shown = shown_models(merge.sources, config)
        self.warnings = Warnings(logged=weights_are_read())
        self.vocabularies = Vocabularies(options)

        settings = token_settings(config)
        tokenizer, gained = self._build_tokenizer(settings)
        self.tokenizer = tokenizer
        self.output = self._read_output()
        check_it_can_be_saved(tokenizer, str(self.source))
        self._warn_of_gaps()
        self._warn_of_digits()
        self.sources = MergeInputs(self.output, gained, self.vocabularies, options, self.warnings)
        self.rows = self._output_rows()
        overrides = resolve_overrides(settings, self.output, self.models, self.vocabularies)
        owners = [self.base] if self.source == "base" else self.models
        self.planner = RowPlanner(
            self.sources, self.source, owners, overrides, self.rows, merge.log
        )
        merge.rows = self.rows
        set_vocabulary_size(out_config, self.rows)

        base = self.vocabularies.vocabulary(self.base)
        self._base_alignment = self.sources.alignment(base)
        self._moves = Moves(self._base_alignment)
        for warning in set_config_ids(out_config, tokenizer, self._moves):
            self.warnings.add(warning)
        self.aligned: list[AlignedTensor] = []

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
        tensors = self._vocabulary_tensors(planned)
        self._check_widths(tensors)
        self._warn_of_padding(tensors)
        tied, tensors, planned = self._tied(tensors, planned)
        aligned = {
            tensor.weight.name: self._aligned(tensor, _space_of(tensor, tensors), tied)
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
                tensors=tuple(a.entries for a in self.aligned),
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

    def _build_tokenizer(
        self, settings: dict[str, TokenEmbeddingConfig]
    ) -> tuple[transformers.PreTrainedTokenizerBase, tuple[str, ...]]:
        """The output's tokenizer, and the ordinary tokens that a union gained."""
        if self.source == "union":
            tokenizer, gained = self._build_union()
        else:
            model = self.base if self.source == "base" else self.source
            # A tokenizer to which nothing is added is the model's own, loaded once for both.
            tokenizer = (
                load_tokenizer(model, self.options)
                if settings
                else self.vocabularies.tokenizer(model)
            )
            gained = ()
        add_configured_tokens(tokenizer, settings, self.vocabularies)
        return tokenizer, gained

    def _read_output(self) -> Vocabulary:
        for model in [*self.models, self.source]:
            if isinstance(model, ModelReference) and self.vocabularies.holds(model, self.tokenizer):
                return self.vocabularies.vocabulary(model)
        return read_vocabulary(self.tokenizer, f"the output ({self.source})")

    def _build_union(self) -> tuple[transformers.PreTrainedTokenizerBase, tuple[str, ...]]:
        # The base's tokens come first, as in mergekit's unions.
        models = list(dict.fromkeys([self.base, *self.models]))
        check_roles({model: self.vocabularies.vocabulary(model) for model in models})
        union = union_tokenizer(
            self.base, {m: self.vocabularies.tokenizer(m) for m in models}, self.options
        )
        if len(union.gained) > MANY:
            self.warnings.add(
                f"The union turns {len(union.gained)} ordinary tokens of other models into added "
                "tokens, which are matched in a text before everything else: words that contain "
                "one are cut there, and tokens spelt in another tokenizer's way are never "
                "produced. To give all models one model's tokenizer instead, write "
                f"`tokenizer_source: {self.base}`."
            )
        return union.tokenizer, union.gained

    def _output_rows(self) -> int:
        """As many rows as the tokenizer needs, padded as the config says."""
        multiple = self.config.tokenizer.pad_to_multiple_of if self.config.tokenizer else None
        if not match_donor_rows(self.config):
            if multiple is not None and multiple < 1:
                raise TransplantError(f"`pad_to_multiple_of` must be at least 1; found {multiple}.")
            if multiple is not None and multiple > max(MOST_PADDING, self.output.size):
                raise TransplantError(
                    f"`pad_to_multiple_of: {multiple}` would give the output's {self.output.size} "
                    "rows more padding than there are rows. Write a small power of two, such as "
                    "64 or 128."
                )
            return self.output.size + (-self.output.size % multiple if multiple else 0)
        if not isinstance(self.source, ModelReference):
            raise TransplantError(
                f"`match_donor_rows` needs one donor, but the tokenizer source is {self.source}. "
                "Name the model that the output is to draft for as `tokenizer_source:`."
            )
        if multiple:
            raise TransplantError(
                "`match_donor_rows` and `pad_to_multiple_of` both say how many rows the output "
                "has. Keep one of them."
            )
        donor = self.sources.donor(self.source, self.method.approximation.name)
        rows = self.sources.donor_rows(donor.tensor(Part.HEAD)).count
        if rows < self.output.size:
            raise TransplantError(
                f"`match_donor_rows`: the donor {self.source} has {rows} rows, but the output's "
                f"tokenizer ids up to {self.output.size - 1}. Leave `match_donor_rows` out."
            )
        return rows

    def _vocabulary_tensors(self, planned: list[tuple[WeightInfo, Task]]) -> list[PlannedTensor]:
        parts = vocabulary_parts(
            ConfiguredModelArchitecture(info=self.arch_info, config=self.out_config)
        )
        tensors = []
        for weight, task in planned:
            if not isinstance(task, ExecuteMergeMethodTask):
                continue
            per_layer = weight.name.endswith(PER_LAYER)
            if per_layer and not isinstance(task.gather_tensors, PermutedVocabulary):
                task = self._permuted(task)
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
        # What follows another tensor comes after it, whatever the order of an inferred definition.
        return sorted(tensors, key=lambda tensor: tensor.weight.name.endswith(PER_LAYER))

    def _permuted(self, task: ExecuteMergeMethodTask) -> ExecuteMergeMethodTask:
        """The task of a vocabulary tensor that mergekit does not know for one."""
        permuted = PermutedVocabulary(
            gather_tensors=task.gather_tensors,
            tokenizer_task=self.tokenizer_task(),
            tokens=None,
            pad_to_multiple_of=None,
            base_model=task.base_model,
            vocabulary_axis=0,
        )
        return task.model_copy(update={"gather_tensors": permuted})

    def _check_widths(self, tensors: list[PlannedTensor]) -> None:
        """Refuse models whose hidden sizes differ: no merge method can put them together."""
        for tensor in tensors:
            self._refuse_different(
                f"the rows of {tensor.weight.name} have different lengths",
                {model: self.sources.rows(held).width for model, held in tensor.models.items()},
            )

    def _check_models(self) -> None:
        """Refuse models of different sizes by their configs, before mergekit plans with them."""
        configs = {
            model: model.config(trust_remote_code=self.options.trust_remote_code)
            for model in self.models
        }
        parts = vocabulary_parts(
            ConfiguredModelArchitecture(info=self.arch_info, config=self.out_config)
        )
        entry = next((name for name, part in parts.items() if part == Part.INPUT), "a row")
        sizes = {
            model: getattr(config.get_text_config(), "hidden_size", None)
            for model, config in configs.items()
        }
        self._refuse_different(f"the rows of {entry} have different lengths", sizes)
        for name, module in self.arch_info.modules.items():
            named = (self.config.modules or {}).get(name, self.config).models
            layers = {
                entry.model: module.architecture.num_layers(configs[entry.model])
                for entry in named or ()
            }
            self._refuse_different("the numbers of layers differ", layers)

    def _refuse_different(self, what: str, sizes: Mapping[ModelReference, int | None]) -> None:
        if len(set(sizes.values())) < 2:
            return
        found = ", ".join(f"{size} in {model}" for model, size in sizes.items())
        raise TransplantError(
            f"merge_method {self.method.spec.name!r}: {what} ({found}), so that these models "
            "cannot be merged. Leave one out, or name it as `tokenizer_source:`, for which any "
            "size will do."
        )

    def _tied(
        self, tensors: list[PlannedTensor], planned: list[tuple[WeightInfo, Task]]
    ) -> tuple[bool, list[PlannedTensor], list[tuple[WeightInfo, Task]]]:
        """Whether input embedding and head are one, and what is planned, without a second one."""
        parts = vocabulary_parts(
            ConfiguredModelArchitecture(info=self.arch_info, config=self.out_config)
        )
        found = tying(self.out_config, self.base, parts.values(), tensors)
        for warning in found.warnings:
            self.warnings.add(warning)
        return (
            found.tied,
            [tensor for tensor in tensors if tensor.weight.name != found.repeated],
            [(weight, task) for weight, task in planned if weight.name != found.repeated],
        )

    def _warn_of_gaps(self) -> None:
        gaps = self.output.size - self.output.tokens
        if gaps:
            self.warnings.add(
                f"The output's tokenizer leaves {gaps} ids below {self.output.size} without a "
                "token; their rows are the mean of the others."
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

    def _warn_of_digits(self) -> None:
        vocabularies = [self.vocabularies.vocabulary(model) for model in self.models]
        for vocabulary in {v.fingerprint: v for v in reversed(vocabularies)}.values():
            warning = digit_mismatch(vocabulary, self.output)
            if warning is not None:
                self.warnings.add(warning)


def _for_every_reader(
    settings: OutputSettings,
    config: transformers.PretrainedConfig,
    files: TokenizerFiles,
    out_path: str,
) -> None:
    """Once mergekit has written its files: have every reader take them alike."""
    settings.write(Path(out_path), config, files)


def _space_of(tensor: PlannedTensor, tensors: list[PlannedTensor]) -> PlannedTensor:
    """The tensor whose rows the anchors of `tensor` must have.

    A bias follows its head, and per-layer embeddings follow the input embedding.
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
