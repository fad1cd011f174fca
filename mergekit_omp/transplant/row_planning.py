"""Plans where each row of the output's vocabulary tensors comes from, tensor by tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from mergekit.common import ModelReference

from mergekit_omp.approximation.base import AnchorCoding, Approximation, Needs, Part, Texts
from mergekit_omp.approximation.zett import Zett
from mergekit_omp.errors import TransplantError
from mergekit_omp.models.tensors import PER_LAYER, VocabularyTensor
from mergekit_omp.outside.counts import counted
from mergekit_omp.transplant.config import TokenizerSource
from mergekit_omp.transplant.inputs import MergeInputs
from mergekit_omp.transplant.log import MergeLog
from mergekit_omp.transplant.predictions import Predictions
from mergekit_omp.transplant.row_plan import (
    ApproximatedRows,
    CodingRows,
    EncodeMissing,
    OverriddenRow,
    RowPlan,
)
from mergekit_omp.transplant.token_settings import Override
from mergekit_omp.transplant.vocabulary_tensors import PlannedTensor
from mergekit_omp.vocabulary import Alignment, Kind, Match, Vocabulary


@dataclass(frozen=True, eq=False)
class DonorRows:
    """What one donor has for the missing rows of one tensor."""

    model: ModelReference | str
    """A name in place of a model where only tokens are needed, and no model need exist."""
    vocabulary: Vocabulary
    tensor: VocabularyTensor | None
    ids: np.ndarray
    """For each output id the donor's row, or -1 where it has no usable one."""
    other_matrix: VocabularyTensor | None = None
    """Its head where `tensor` is its input embedding, and the reverse, if the method needs both."""


@dataclass(frozen=True, eq=False)
class ModelRows:
    """The rows of one model's vocabulary tensor, as planned."""

    plan: RowPlan
    alignment: Alignment
    """Which row of the model each output id was matched to."""
    entry: dict[str, Any]
    """The tensor's entry in the record, without the figures that the merge measures."""


class RowPlanner:
    """Plans the rows of all vocabulary tensors of one output.

    Tensors whose codes would be equal (same donor tensor, anchors, missing tokens and method) share
    one task, which is why they are planned by one object.
    """

    def __init__(
        self,
        inputs: MergeInputs,
        source: TokenizerSource,
        owners: Sequence[ModelReference],
        overrides: Sequence[Override],
        rows: int,
        log: MergeLog,
    ):
        """`owners`: the donors, in the order in which they are asked, if `source` is no model."""
        self.inputs = inputs
        self.output = inputs.output
        self.source = source
        self.owners = owners
        self.overrides = overrides
        self.rows = rows
        self.log = log
        self._codes: dict[tuple[Any, ...], EncodeMissing] = {}
        self._texts: dict[tuple[Any, ...], Texts] = {}
        self._predictions = Predictions(inputs, log)

    def plan(
        self, tensor: PlannedTensor, space: PlannedTensor, approximation: Approximation, tied: bool
    ) -> tuple[ModelRows, ...]:
        """The rows of each model, in the order of `tensor.models`.

        An anchor must have a usable row in `space`: the tensor itself or, for a bias, its head.
        Models with the same vocabulary are planned together, so that they share anchors and codes.
        `tied`: the tensor serves as input embedding and as head.
        """
        groups: dict[str, list[ModelReference]] = defaultdict(list)
        for model in tensor.models:
            groups[self.inputs.vocabularies.vocabulary(model).fingerprint].append(model)
        found: dict[ModelReference, ModelRows] = {}
        for models in groups.values():
            planned = self._plan_group(tensor, space, models, approximation, tied)
            found |= {rows.plan.model: rows for rows in planned}
        return tuple(found[model] for model in tensor.models)

    def _plan_group(
        self,
        tensor: PlannedTensor,
        space: PlannedTensor,
        models: list[ModelReference],
        approximation: Approximation,
        tied: bool,
    ) -> list[ModelRows]:
        rows = min(self.inputs.model_rows(tensor.models[model]).count for model in models)
        alignment = self._alignment(models, rows)
        usable = self._usable(space, models, alignment)
        overrides = [o for o in self.overrides if o.force or alignment.source[o.output_id] < 0]
        overridden = np.array([o.output_id for o in overrides], dtype=np.int64)
        copied = alignment.source >= 0
        if not approximation.copies_shared:
            copied &= alignment.match != Match.BYTES
            if isinstance(approximation, Zett):
                # Tokens that a union added are matched by string, and are predicted too.
                copied &= self.output.kinds != Kind.ORDINARY
        for model in models:
            self._check_finite(tensor.models[model], alignment.source, copied)
        missing = ~copied & (self.output.kinds != Kind.GAP)
        copied[overridden] = missing[overridden] = False
        approximated, donors = [], []
        left = missing.copy()
        for donor in self._donors(tensor.part, approximation, tied, alignment.model):
            output_ids = np.flatnonzero(left & (donor.ids >= 0))
            if not len(output_ids):
                continue
            left[output_ids] = False
            anchors = np.flatnonzero(alignment.anchors & usable & (donor.ids >= 0))
            approximated.append(
                self._approximated_rows(
                    tensor, tied, approximation, alignment, rows, donor, output_ids, anchors
                )
            )
            donors.append(
                {
                    "model": str(donor.model),
                    "tensor": donor.tensor.weight.name if donor.tensor else None,
                    "missing": len(output_ids),
                    "anchors": len(anchors),
                }
            )
        without_donor_row = np.flatnonzero(left)
        self._warn_of_mean_rows(without_donor_row, models)
        counts = {
            **asdict(alignment.counts),
            "padding": alignment.counts.padding + self.rows - self.output.size,
            "copied": int(copied.sum()),
            "approximated": sum(len(served.rows) for served in approximated),
            "without_donor_row": len(without_donor_row),
            "overridden": len(overridden),
            "rows": self.rows,
        }
        found = []
        for model in models:
            of_model, predictions = self._predicted(approximated, model, tensor, approximation)
            plan = RowPlan(
                model=model,
                rows=self.rows,
                copied_to=np.flatnonzero(copied),
                copied_from=alignment.source[copied],
                approximated=of_model,
                without_donor_row=without_donor_row,
                overrides=tuple(
                    self._overridden(override, tensor, approximation) for override in overrides
                ),
                padding=np.concatenate(
                    [
                        np.flatnonzero(self.output.kinds == Kind.GAP),
                        np.arange(self.output.size, self.rows),
                    ]
                ),
            )
            name = tensor.models[model].weight.name
            entry = {
                "tensor": name,
                "part": tensor.part.value,
                "method": approximation.name,
                "parameters": approximation.model_dump(mode="json"),
                "donors": donors,
                "counts": counts,
                **predictions,
            }
            found.append(ModelRows(plan, alignment, entry))
        return found

    def _alignment(self, models: list[ModelReference], rows: int) -> Alignment:
        vocabulary = self.inputs.vocabularies.vocabulary(models[0])
        alignment = self.inputs.alignment(vocabulary, rows)
        if not (alignment.source >= 0).any():
            raise TransplantError(
                f"{', '.join(map(str, models))} and the output's tokenizer ({self.source}) share "
                "no token: nothing of the model's vocabulary would be left. Use a "
                "`tokenizer_source` whose vocabulary overlaps."
            )
        if alignment.counts.out_of_range:
            self.inputs.warnings.add(
                f"The tokenizer of {models[0]} has ids past the {rows} rows of its matrix: "
                f"{counted(alignment.counts.out_of_range, 'shared token')} cannot be copied, but "
                "approximated."
            )
        return alignment

    def _check_finite(
        self, tensor: VocabularyTensor, source: np.ndarray, copied: np.ndarray
    ) -> None:
        """Refuse to copy a model's rows that are not finite."""
        finite = self.inputs.rows(tensor).finite
        rows = source[copied]
        broken = rows[~finite[np.clip(rows, 0, len(finite) - 1)]]
        if len(broken):
            strings = self.inputs.vocabularies.vocabulary(tensor.model).strings
            raise TransplantError(
                f"{len(broken)} rows of {tensor.weight.name} of {tensor.model} hold numbers that "
                f"are not finite, as that of id {broken[0]} ({strings[broken[0]]!r}): the output "
                "would not be whole. Copy or download the model again, or name another."
            )

    def _usable(
        self, space: PlannedTensor, models: list[ModelReference], alignment: Alignment
    ) -> np.ndarray:
        """Which output ids have a usable row in every model: anchors that all of them can share."""
        usable = alignment.source >= 0
        for model in models:
            of_model = self.inputs.rows(space.models[model]).usable
            inside = usable & (alignment.source < len(of_model))
            usable = inside & of_model[np.where(inside, alignment.source, 0)]
        return usable

    def _donors(
        self, part: Part, approximation: Approximation, tied: bool, vocabulary: Vocabulary
    ) -> list[DonorRows]:
        """The donors for models of this vocabulary, in the order in which they are asked."""
        if isinstance(self.source, ModelReference):
            models = [self.source]
        else:
            models = [
                model
                for model in self.owners
                if self.inputs.vocabularies.vocabulary(model).fingerprint != vocabulary.fingerprint
            ]
        if isinstance(approximation, Zett):
            # A hypernetwork reads the bytes of a token, and no donor.
            ids = np.where(self.output.kinds != Kind.GAP, np.arange(self.output.size), -1)
            return [DonorRows(str(self.source), self.output, None, ids)]
        found = []
        for model in models:
            if Needs.DONOR_ROWS not in approximation.needs:
                own = self.inputs.vocabularies.vocabulary(model)
                found.append(DonorRows(model, own, None, self.inputs.donor_ids(own)))
                continue
            weights = self.inputs.donor(model, approximation.name)
            space = approximation.space_part(part)
            # A tied matrix serves as head too, and a poor row in a head costs most quality.
            tensor = weights.tensor(Part.HEAD if tied else space)
            rows = self.inputs.donor_rows(tensor)
            ids = self.inputs.donor_ids(weights.vocabulary, rows.count)
            ids[(ids >= 0) & ~rows.usable[np.maximum(ids, 0)]] = -1
            other_matrix = None
            if Needs.OTHER_MATRIX in approximation.needs:
                other = weights.tensor(Part.HEAD if tensor.part == Part.INPUT else Part.INPUT)
                other_matrix = other if other != tensor else None
            found.append(DonorRows(model, weights.vocabulary, tensor, ids, other_matrix))
        return found

    def _approximated_rows(
        self,
        tensor: PlannedTensor,
        tied: bool,
        approximation: Approximation,
        alignment: Alignment,
        base_rows: int,
        donor: DonorRows,
        output_ids: np.ndarray,
        anchors: np.ndarray,
    ) -> ApproximatedRows:
        if donor.tensor is not None and not len(anchors):
            raise TransplantError(
                f"{approximation.name!r} writes missing tokens in terms of tokens that "
                f"{alignment.model.name} and the donor {donor.model} share, and not one of "
                "those has finite, non-zero rows in both. Use a donor whose vocabulary overlaps, "
                "or the methods mean or zero."
            )
        texts = None
        if Needs.TEXT in approximation.needs:
            own, donors = alignment.model, donor.vocabulary
            spelled = (own.fingerprint, base_rows, donors.fingerprint, output_ids.tobytes())
            if spelled not in self._texts:
                self._texts[spelled] = Texts(
                    missing=[self.output.content[i] for i in output_ids],
                    base=own.content[:base_rows],
                    donor=donors.content,
                    segment_in_base=own.segment,
                    segment_in_donor=donors.segment,
                    emitted=own.segmenter.emitted[:base_rows],
                )
            texts = self._texts[spelled]
        coding = CodingRows(
            targets=donor.ids[output_ids],
            anchors=donor.ids[anchors],
            anchor_rows=alignment.source[anchors],
            texts=texts,
            progress=not self.inputs.options.quiet,
        )
        load, other_matrix = (
            donor.tensor.load_task() if donor.tensor else None,
            donor.other_matrix,
        )
        axis = (donor.tensor.weight.vocabulary_axis or 0) if donor.tensor else 0
        encode = None
        if isinstance(approximation, AnchorCoding):
            key = (
                approximation,
                donor.tensor or donor.vocabulary.fingerprint,
                alignment.model.fingerprint,
                output_ids.tobytes(),
                anchors.tobytes(),
            )
            task = EncodeMissing(
                donor=load,
                donor_axis=axis,
                approximation=approximation,
                coding=coding,
                log=self.log,
            )
            encode = self._codes.setdefault(key, task)
        return ApproximatedRows(
            rows=output_ids,
            approximation=approximation,
            part=tensor.part,
            # A per-layer embedding, which follows the input embedding, is no head.
            tied=tied and not tensor.weight.name.endswith(PER_LAYER),
            coding=coding,
            donor=load,
            donor_axis=axis,
            encode=encode,
            other_matrix=other_matrix.load_task() if other_matrix else None,
            other_axis=(other_matrix.weight.vocabulary_axis or 0) if other_matrix else 0,
        )

    def _predicted(
        self,
        approximated: list[ApproximatedRows],
        model: ModelReference,
        tensor: PlannedTensor,
        approximation: Approximation,
    ) -> tuple[tuple[ApproximatedRows, ...], dict[str, Any]]:
        """`approximated` with the task that predicts them for `model`, and its entry in the record.

        Unchanged for methods that are not hypernetworks.
        """
        if not isinstance(approximation, Zett) or not approximated:
            return tuple(approximated), {}
        (served,) = approximated
        planned = self._predictions.plan(approximation, tensor.models[model], served.rows)
        return (replace(served, predict=planned.task),), {"hypernetwork": planned.facts}

    def _overridden(
        self, override: Override, tensor: PlannedTensor, approximation: Approximation
    ) -> OverriddenRow:
        if override.model is None:
            return OverriddenRow(override.output_id, None, (), ())
        if override.model not in tensor.models:
            raise TransplantError(
                f"`tokens:` takes the row of {override.token!r} from {override.model}, which has "
                f"no {tensor.weight.name}."
            )
        count = self.inputs.rows(tensor.models[override.model]).count
        for row in override.rows:
            if not 0 <= row < count:
                raise TransplantError(
                    f"`tokens:` takes the row of {override.token!r} from id {row} of "
                    f"{override.model}, whose {tensor.weight.name} has {count} rows."
                )
        weights = approximation.sequence_weights(len(override.rows), tensor.part)
        return OverriddenRow(override.output_id, override.model, override.rows, tuple(weights))

    def _warn_of_mean_rows(
        self, without_donor_row: np.ndarray, models: list[ModelReference]
    ) -> None:
        if not len(without_donor_row):
            return
        tokens = ", ".join(repr(self.output.strings[i]) for i in without_donor_row[:3])
        self.inputs.warnings.add(
            f"No donor has a usable row for {counted(len(without_donor_row), 'token')} "
            f"({tokens}{', ...' if len(without_donor_row) > 3 else ''}) without a row in "
            f"{', '.join(map(str, models))}: the mean of the model's rows is taken."
        )
