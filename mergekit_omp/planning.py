"""What a plan gains: the output's tokenizer, donors, and a source for every row.

All that can be known from the config, the tokenizers and the vocabulary tensors is found out
and checked here, before mergekit writes anything.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pydantic
import transformers
from mergekit.architecture import ConfiguredModelArchitecture, ModelArchitecture, WeightInfo
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.graph import Task
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions
from mergekit.tokenizer import PermutedVocabulary

from mergekit_omp import output
from mergekit_omp.approximation.base import AnchorCoding, Approximation, Needs, Part, Texts
from mergekit_omp.donors import Donor, load_donor
from mergekit_omp.errors import TransplantError
from mergekit_omp.merge_config import check_parameters, models_in_order, tokenizer_source
from mergekit_omp.methods import TransplantMethod
from mergekit_omp.model_tensors import (
    Rows,
    VocabularyTensor,
    is_tied,
    read_rows,
    vocabulary_parts,
)
from mergekit_omp.report.record import transplant_record
from mergekit_omp.tasks import (
    AlignedVocabulary,
    EncodeMissing,
    Filling,
    OutputFiles,
    OutputTokenizer,
    RowPlan,
    SpacePlan,
    TensorStatistics,
    TransplantTokenizer,
    WriteTransplant,
)
from mergekit_omp.vocabularies import (
    Override,
    Vocabularies,
    add_configured_tokens,
    load_tokenizer,
    read_vocabulary,
    resolve_overrides,
    token_settings,
)
from mergekit_omp.vocabulary import Alignment, Kind, Match, Vocabulary, align

LOG = logging.getLogger(__name__)

# Configs of outputs whose number of rows is decided here, kept alive by the reference.
_PLANNED: list[tuple[transformers.PretrainedConfig, int]] = []


def planned_rows(config: transformers.PretrainedConfig) -> int | None:
    """How many rows the output with this config has, if it is one of ours."""
    return next((rows for planned, rows in _PLANNED if planned is config), None)


@dataclass(frozen=True, eq=False)
class _Tensor:
    """One vocabulary tensor of the output, as mergekit has planned it."""

    weight: WeightInfo
    part: Part
    task: ExecuteMergeMethodTask
    models: dict[ModelReference, VocabularyTensor]
    """The models that have it, in the order of the merge."""


class Transplant:
    """All that one merge's plan gains. Raises TransplantError for what cannot work."""

    def __init__(
        self,
        config: MergeConfiguration,
        method: TransplantMethod,
        options: MergeOptions,
        arch_info: ModelArchitecture,
        out_config: transformers.PretrainedConfig,
    ):
        self.config = config
        self.method = method
        self.options = options
        self.arch_info = arch_info
        self.out_config = out_config
        self.models = models_in_order(config)
        self.base = config.base_model or self.models[0]
        self.source = tokenizer_source(config)
        check_parameters(config, method)
        self.warnings: list[str] = []
        self.vocabularies = Vocabularies(options)
        self._rows: dict[VocabularyTensor, Rows] = {}
        self._alignments: dict[tuple[str, int], Alignment] = {}
        self._donors: dict[ModelReference, Donor] = {}
        self._codes: dict[tuple[Any, ...], EncodeMissing] = {}

        settings = token_settings(config)
        tokenizer = self._build_tokenizer()
        add_configured_tokens(tokenizer, settings)
        self.output_tokenizer = OutputTokenizer(tokenizer)
        self.output = read_vocabulary(tokenizer, f"the output ({self.source})")
        self.overrides = resolve_overrides(settings, self.output, self.models, self.vocabularies)
        self.rows = self.output.size
        multiple = config.tokenizer.pad_to_multiple_of if config.tokenizer else None
        if multiple is not None and multiple < 1:
            raise TransplantError(f"`pad_to_multiple_of` must be at least 1; found {multiple}.")
        if multiple:
            self.rows += -self.rows % multiple
        gaps = self.output.size - self.output.tokens
        if gaps:
            self._warn(
                f"The output's tokenizer leaves {gaps} ids below {self.output.size} without a "
                "token; their rows are the mean of the others."
            )
        _PLANNED.append((out_config, self.rows))

        self._base_alignment = self._align(self.vocabularies.vocabulary(self.base), None)
        for warning in output.set_token_ids(out_config, tokenizer, self._moved):
            self._warn(warning)
        self._statistics: list[TensorStatistics] = []
        self._entries: list[tuple[dict[str, Any], ...]] = []
        self._record: dict[ModelReference, list[dict[str, Any]]] = {m: [] for m in self.models}

    # -- what the planner asks for ---------------------------------------------------------

    def tokenizer_task(self) -> TransplantTokenizer:
        """In place of mergekit's own."""
        return TransplantTokenizer(
            base_model=self.base,
            referenced_models=tuple(self.models),
            tokenizer_source=self.source,
            add_tokens=(),
            trust_remote_code=self.options.trust_remote_code,
            output=self.output_tokenizer,
        )

    def check_out_path(self, out_path: str) -> None:
        """Refuse an output path that would lose something of the user's."""
        donors = [self.source] if isinstance(self.source, ModelReference) else []
        output.check_out_path(out_path, [*self.models, *donors])

    def write_task(self, out_path: str) -> WriteTransplant:
        """The task that writes what the output has beside mergekit's own files."""
        tokenizer = self.output_tokenizer.tokenizer
        repeated = np.flatnonzero(self._base_alignment.repeated).tolist()
        record = transplant_record(
            merge_method=self.method.spec.name,
            approximation=self.method.approximation.name,
            tokenizer_source=str(self.source),
            rows=self.rows,
            tokens=self.output.tokens,
            models=[
                {"model": str(model), "tensors": entries} for model, entries in self._record.items()
            ],
            warnings=self.warnings,
        )
        return WriteTransplant(
            out_path=out_path,
            statistics=tuple(self._statistics),
            files=OutputFiles(
                record=record,
                tensors=tuple(self._entries),
                generation_config=output.generation_config(
                    self.base, tokenizer, self._moved, repeated
                ),
            ),
        )

    def align(self, planned: list[tuple[WeightInfo, Task]]) -> list[tuple[WeightInfo, Task]]:
        """The planned tensors, those of the vocabulary with our alignment before the merge."""
        tensors = self._vocabulary_tensors(planned)
        tied = self._tied(tensors)
        aligned: dict[str, Task] = {}
        for tensor in tensors:
            aligned[tensor.weight.name] = self._align_tensor(tensor, tensors, tied)
        return [(weight, aligned.get(weight.name, task)) for weight, task in planned]

    # -- one tensor ------------------------------------------------------------------------

    def _align_tensor(self, tensor: _Tensor, tensors: list[_Tensor], tied: bool) -> Task:
        gather = tensor.task.gather_tensors
        approximation = self._approximation(tensor)
        groups: dict[str, list[ModelReference]] = defaultdict(list)
        for model in tensor.models:
            groups[self.vocabularies.vocabulary(model).fingerprint].append(model)
        plans: dict[ModelReference, RowPlan] = {}
        entries: dict[ModelReference, dict[str, Any]] = {}
        for models in groups.values():
            for model, plan, entry in self._plan_group(
                tensor, self._space_tensor(tensor, tensors), models, approximation, tied
            ):
                plans[model] = plan
                entries[model] = entry
        aligned = AlignedVocabulary(
            gather_tensors=gather.gather_tensors,
            tokenizer_task=gather.tokenizer_task,
            tokens=None,
            pad_to_multiple_of=None,
            base_model=gather.base_model,
            vocabulary_axis=gather.vocabulary_axis,
            plans=tuple(plans[model] for model in tensor.models),
        )
        self._statistics.append(TensorStatistics(aligned=aligned))
        self._entries.append(tuple(entries[model] for model in tensor.models))
        for model in tensor.models:
            self._record[model].append(entries[model])
        return tensor.task.model_copy(update={"gather_tensors": aligned})

    def _plan_group(
        self,
        tensor: _Tensor,
        space: _Tensor,
        models: list[ModelReference],
        approximation: Approximation,
        tied: bool,
    ) -> list[tuple[ModelReference, RowPlan, dict[str, Any]]]:
        """Row plans of the models of one vocabulary: the same anchors, and so the same codes."""
        vocabulary = self.vocabularies.vocabulary(models[0])
        rows = min(self._read(tensor.models[model]).count for model in models)
        alignment = self._align(vocabulary, rows)
        self._check_shared(alignment, models)
        if alignment.counts.out_of_range:
            self._warn(
                f"The tokenizer of {models[0]} has ids past the {rows} rows of its matrix: "
                f"{alignment.counts.out_of_range} shared token(s) cannot be copied and are "
                "approximated."
            )
        usable = np.ones(rows, dtype=bool)
        for model in models:
            of_model = self._read(space.models[model]).usable[:rows]
            usable[: len(of_model)] &= of_model
            usable[len(of_model) :] = False

        forced = {o.output_id for o in self.overrides if o.force}
        lacking = {o.output_id for o in self.overrides if alignment.source[o.output_id] < 0}
        overridden = np.array(sorted(forced | lacking), dtype=np.int64)
        copied = alignment.source >= 0
        if not approximation.copies_shared:
            copied &= alignment.match != Match.BYTES
        missing = ~copied & (self.output.kinds != Kind.GAP)
        copied[overridden] = False
        missing[overridden] = False
        fillings, unserved, donors = self._fillings(
            tensor, approximation, tied, vocabulary, alignment, usable, missing
        )
        found = []
        for model in models:
            overrides = tuple(
                (o.output_id, o.model, self._override_row(o, tensor))
                for o in self.overrides
                if o.output_id in forced or o.output_id in lacking
            )
            plan = RowPlan(
                model=model,
                rows=self.rows,
                copied_to=np.flatnonzero(copied),
                copied_from=alignment.source[copied],
                fillings=fillings,
                unserved=unserved,
                overrides=overrides,
                padding=np.concatenate(
                    [
                        np.flatnonzero(self.output.kinds == Kind.GAP),
                        np.arange(self.output.size, self.rows),
                    ]
                ),
            )
            entry = {
                "tensor": tensor.models[model].weight.name,
                "part": tensor.part.value,
                "method": approximation.name,
                "parameters": approximation.model_dump(mode="json"),
                "donors": donors,
                "counts": {
                    **asdict(alignment.counts),
                    "padding": len(plan.padding),
                    "copied": int(copied.sum()),
                    "approximated": int(sum(len(f.rows) for f in fillings)),
                    "without_donor_row": len(unserved),
                    "overridden": len(overridden),
                    "rows": self.rows,
                },
            }
            found.append((model, plan, entry))
            LOG.info(
                "%s, %s: %d rows copied, %d approximated by %s",
                model,
                entry["tensor"],
                int(copied.sum()),
                int(missing.sum()),
                approximation.name,
            )
        return found

    def _fillings(
        self,
        tensor: _Tensor,
        approximation: Approximation,
        tied: bool,
        vocabulary: Vocabulary,
        alignment: Alignment,
        usable: np.ndarray,
        missing: np.ndarray,
    ) -> tuple[tuple[Filling, ...], np.ndarray, list[dict[str, Any]]]:
        """Share out the missing rows among the donors; what is left over has no donor row."""
        reads_rows = Needs.DONOR_ROWS in approximation.needs
        fillings = []
        record = []
        left = missing.copy()
        for model in self._donor_models(vocabulary):
            if not left.any():
                break
            if not reads_rows:
                donor_vocabulary = self.vocabularies.vocabulary(model)
                source = self._donor_source(donor_vocabulary, None)
                served = left & (source >= 0)
                donor_tensor = None
                anchors = np.flatnonzero(
                    alignment.anchors & usable[np.maximum(alignment.source, 0)] & (source >= 0)
                )
            else:
                donor = self._donor(model)
                donor_vocabulary = donor.vocabulary
                part = approximation.space_part(tensor.part)
                if tied and part == Part.INPUT:
                    # A tied matrix serves as head, where a poor row costs most.
                    part = Part.HEAD
                donor_tensor = donor.tensor(part)
                donor_rows = self._read_donor(donor_tensor)
                source = self._donor_source(donor_vocabulary, donor_rows.count)
                good = (source >= 0) & donor_rows.usable[np.maximum(source, 0)]
                served = left & good
                anchors = np.flatnonzero(
                    alignment.anchors & usable[np.maximum(alignment.source, 0)] & good
                )
                if served.any() and not len(anchors):
                    raise TransplantError(
                        f"{approximation.name!r} writes missing tokens in terms of tokens that "
                        f"{vocabulary.name} and the donor {model} share, and not one of those "
                        "has finite, non-zero rows in both. Use a donor whose vocabulary "
                        "overlaps, or the methods mean or zero."
                    )
            if not served.any():
                continue
            targets = np.flatnonzero(served)
            left &= ~served
            fillings.append(
                self._filling(
                    tensor,
                    approximation,
                    vocabulary,
                    donor_vocabulary,
                    donor_tensor,
                    targets,
                    source,
                    anchors,
                    alignment,
                )
            )
            record.append(
                {
                    "model": str(model),
                    "tensor": donor_tensor.weight.name if donor_tensor else None,
                    "missing": len(targets),
                    "anchors": len(anchors),
                }
            )
        unserved = np.flatnonzero(left)
        if len(unserved):
            tokens = ", ".join(repr(self.output.strings[i]) for i in unserved[:3])
            self._warn(
                f"{len(unserved)} token(s) that {vocabulary.name} lacks have no usable row in a "
                f"donor ({tokens}{', ...' if len(unserved) > 3 else ''}): they get the mean of "
                "the model's rows."
            )
        return tuple(fillings), unserved, record

    def _filling(
        self,
        tensor: _Tensor,
        approximation: Approximation,
        vocabulary: Vocabulary,
        donor: Vocabulary,
        donor_tensor: VocabularyTensor | None,
        targets: np.ndarray,
        source: np.ndarray,
        anchors: np.ndarray,
        alignment: Alignment,
    ) -> Filling:
        key = (
            approximation,
            donor_tensor or donor.fingerprint,
            vocabulary.fingerprint,
            targets.tobytes(),
            anchors.tobytes(),
        )
        load = donor_tensor.load_task() if donor_tensor else None
        axis = donor_tensor.weight.vocabulary_axis or 0 if donor_tensor else 0
        texts = None
        if Needs.TEXT in approximation.needs:
            texts = Texts(
                missing=[self.output.content[i] for i in targets],
                base=vocabulary.content,
                donor=donor.content,
                segment_in_base=vocabulary.segment,
                segment_in_donor=donor.segment,
            )
        plan = SpacePlan(
            targets=source[targets],
            anchors=source[anchors],
            anchor_rows=alignment.source[anchors],
            texts=texts,
            progress=not self.options.quiet,
        )
        encode = None
        if isinstance(approximation, AnchorCoding):
            encode = self._codes.setdefault(
                key,
                EncodeMissing(donor=load, donor_axis=axis, approximation=approximation, plan=plan),
            )
        return Filling(
            rows=targets,
            approximation=approximation,
            part=tensor.part,
            plan=plan,
            donor=load,
            donor_axis=axis,
            encode=encode,
        )

    # -- what is known of models -----------------------------------------------------------

    def _build_tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        if self.source == "union":
            raise NotImplementedError
        model = self.base if self.source == "base" else self.source
        assert isinstance(model, ModelReference)
        return load_tokenizer(model, self.options)

    def _donor_models(self, vocabulary: Vocabulary) -> list[ModelReference]:
        if isinstance(self.source, ModelReference):
            return [self.source]
        return [
            model
            for model in self.models
            if self.vocabularies.vocabulary(model).fingerprint != vocabulary.fingerprint
        ]

    def _donor(self, model: ModelReference) -> Donor:
        if model not in self._donors:
            self._donors[model] = load_donor(
                model,
                self.vocabularies.vocabulary(model),
                self.method.approximation.name,
                self.options,
            )
        return self._donors[model]

    def _donor_source(self, donor: Vocabulary, rows: int | None) -> np.ndarray:
        """The donor's id for each output id, -1 where it has none or no row for it."""
        if donor.fingerprint == self.output.fingerprint:
            source = np.where(self.output.kinds != Kind.GAP, np.arange(self.output.size), -1)
        else:
            source = self._align(donor, rows).source.copy()
        if rows is not None:
            source[source >= rows] = -1
        return source

    def _align(self, vocabulary: Vocabulary, rows: int | None) -> Alignment:
        key = (vocabulary.fingerprint, -1 if rows is None else rows)
        if key not in self._alignments:
            self._alignments[key] = align(vocabulary, self.output, rows=rows)
        return self._alignments[key]

    def _read(self, tensor: VocabularyTensor) -> Rows:
        if tensor not in self._rows:
            try:
                self._rows[tensor] = read_rows(tensor)
            except LookupError as error:
                raise TransplantError(
                    f"{tensor.model} has no tensor {tensor.weight.name}."
                ) from error
        return self._rows[tensor]

    def _read_donor(self, tensor: VocabularyTensor) -> Rows:
        rows = self._read(tensor)
        if not rows.usable.any():
            raise TransplantError(
                f"Every row of {tensor.weight.name} of the donor {tensor.model} is zero or not "
                "finite: nothing can be learnt from it. Check that the donor's weights are whole."
            )
        bad = int((~rows.usable).sum())
        if bad:
            LOG.info("%s, %s: %d rows zero or not finite", tensor.model, tensor.weight.name, bad)
        past = self.vocabularies.vocabulary(tensor.model).size - rows.count
        if past > 0:
            self._warn(
                f"The tokenizer of {tensor.model} has ids up to "
                f"{rows.count + past - 1}, but its {tensor.weight.name} only {rows.count} rows: "
                f"{past} id(s) have none."
            )
        return rows

    def _vocabulary_tensors(self, planned: list[tuple[WeightInfo, Task]]) -> list[_Tensor]:
        parts = vocabulary_parts(
            ConfiguredModelArchitecture(info=self.arch_info, config=self.out_config)
        )
        tensors = []
        for weight, task in planned:
            if weight.vocabulary_axis is None or not isinstance(task, ExecuteMergeMethodTask):
                continue
            permuted = task.gather_tensors
            if not isinstance(permuted, PermutedVocabulary):
                continue
            part = parts[weight.name]
            models = {}
            for model, info in permuted.gather_tensors.weight_info.items():
                tensor = VocabularyTensor(model=model, weight=info, part=part)
                if tensor.stored(tied=True):
                    models[model] = tensor
            ordered = {model: models[model] for model in task.model_order if model in models}
            tensors.append(_Tensor(weight, part, task, ordered))
        return tensors

    def _tied(self, tensors: list[_Tensor]) -> bool:
        heads = [tensor for tensor in tensors if tensor.part == Part.HEAD]
        entries = [tensor for tensor in tensors if tensor.part == Part.INPUT]
        if not heads or not entries:
            return not heads
        if self.base not in heads[0].models or self.base not in entries[0].models:
            return False
        return is_tied(self.out_config, entries[0].models[self.base], heads[0].models[self.base])

    def _space_tensor(self, tensor: _Tensor, tensors: list[_Tensor]) -> _Tensor:
        """The tensor whose rows the anchors of `tensor` must have: a bias follows its head."""
        if tensor.part != Part.HEAD_BIAS:
            return tensor
        for part in (Part.HEAD, Part.INPUT):
            for other in tensors:
                if other.part == part and set(tensor.models) <= set(other.models):
                    return other
        raise TransplantError(
            f"{tensor.weight.name} is a bias without a vocabulary matrix beside it; the "
            "architecture is not one that can be transplanted."
        )

    def _approximation(self, tensor: _Tensor) -> Approximation:
        try:
            return self.method.build(dict(tensor.task.parameters.items()))
        except pydantic.ValidationError as error:
            raise TransplantError(
                f"merge_method {self.method.spec.name!r}, tensor {tensor.weight.name}: "
                f"{error.errors()[0]['msg']}."
            ) from error

    def _check_shared(self, alignment: Alignment, models: list[ModelReference]) -> None:
        if not (alignment.source >= 0).any():
            raise TransplantError(
                f"{', '.join(map(str, models))} and the output's tokenizer ({self.source}) share "
                "no token: nothing of the model's vocabulary would be left. Use a "
                "`tokenizer_source` whose vocabulary overlaps."
            )

    def _override_row(self, override: Override, tensor: _Tensor) -> int:
        if override.model is None:
            return 0
        if override.model not in tensor.models:
            raise TransplantError(
                f"`tokens:` takes the row of {override.token!r} from {override.model}, which has "
                f"no {tensor.weight.name}."
            )
        count = self._read(tensor.models[override.model]).count
        if not 0 <= override.row < count:
            raise TransplantError(
                f"`tokens:` takes the row of {override.token!r} from id {override.row} of "
                f"{override.model}, whose {tensor.weight.name} has {count} rows."
            )
        return override.row

    def _moved(self, token_id: int) -> int | None:
        """Where the base's token of this id is in the output."""
        found = np.flatnonzero(self._base_alignment.source == token_id)
        return int(found[0]) if len(found) else None

    def _warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)
            LOG.warning("%s", message)
