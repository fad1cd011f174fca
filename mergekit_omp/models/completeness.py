"""Makes sure that a merge plans every tensor of every model, so that none is lost unnoticed.

mergekit drops tensors that its architecture definitions do not name. Where a definition misses a
tensor, asks for one that the checkpoint lacks, or does not mark a vocabulary tensor as one, the
merge is planned from the checkpoint's own tensor names instead (`layout`). A tensor that even this
leaves out is an error before anything is written, or a warning with mergekit's `--allow-crimes`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mergekit.architecture import ConfiguredModelArchitecture, ModelArchitecture, WeightInfo
from mergekit.common import ModelReference
from mergekit.options import MergeOptions
from torch import Tensor

from mergekit_omp.errors import TransplantError
from mergekit_omp.models.checkpoint import stored_tensors
from mergekit_omp.models.known_model import KnownModel, known_model
from mergekit_omp.models.layout import CheckpointLayout, Unplaced
from mergekit_omp.models.numbers import check_base
from mergekit_omp.models.tensors import PER_LAYER

_NAMED = 5

Tensors = Mapping[ModelReference, Mapping[str, Tensor]]
Layouts = Mapping[ModelReference, CheckpointLayout]


@dataclass(frozen=True, eq=False)
class CompleteArchitecture:
    """The architecture that a merge is planned from, and warnings of tensors that it leaves out."""

    architecture: ModelArchitecture
    warnings: tuple[str, ...] = ()


def complete_architecture(
    base: ModelReference,
    models: Sequence[ModelReference],
    architecture: ModelArchitecture,
    options: MergeOptions,
    *,
    dtype: str | None = None,
    modules_named: bool = False,
) -> CompleteArchitecture:
    """An architecture that covers every tensor of `models`: `architecture`, mergekit's, if it does.

    `dtype` is what the config casts weights to. `modules_named`: the config has a `modules:` block,
    whose names are those of mergekit's own architecture, so that this one has to be used.

    Raises TransplantError where a tensor would be lost or is missing, where a vocabulary tensor is
    neither embedding, head nor head bias, and where the base has no vocabulary tensor.
    """
    tensors = {model: stored_tensors(model) for model in models}
    for model, held in tensors.items():
        check_base(model, model.config(options.trust_remote_code), held, dtype)
    coverage = _Coverage(architecture, tensors, options)
    rows = coverage.rows(base)
    if coverage.whole and rows and not coverage.unmarked(base, rows):
        return CompleteArchitecture(architecture)
    layouts = _layouts(tensors, options)
    if layouts is None:
        return _judged(coverage, base, None, options)
    if coverage.whole and rows:
        names = layouts[base].names
        unmarked = [names[key] for key in coverage.unmarked(base, rows)]
        if not any(new and new.name in layouts[base].known.axes for new in unmarked):
            return CompleteArchitecture(architecture)
    if not modules_named:
        try:
            architecture = _in_own_names(base, layouts, options)
            coverage = _Coverage(architecture, tensors, options)
        except Unplaced as error:
            if not options.allow_crimes:
                raise TransplantError(
                    f"{base}: the tensor {error.name} of shape {list(error.shape)} has as many "
                    "entries as the vocabulary has rows, but plays no part that is known, so that "
                    "it cannot follow its tokens. Take it out of the checkpoint if the model does "
                    "not need it."
                ) from error
    return _judged(coverage, base, layouts, options)


def own_architecture(
    model: ModelReference, options: MergeOptions
) -> ConfiguredModelArchitecture | None:
    """An architecture in the checkpoint's own names.

    None where transformers cannot build the model.
    """
    layouts = _layouts({model: stored_tensors(model)}, options)
    if layouts is None:
        return None
    try:
        info = _in_own_names(model, layouts, options)
    except Unplaced:
        return None
    config = model.config(trust_remote_code=options.trust_remote_code)
    return ConfiguredModelArchitecture(info=info, config=config)


class _Coverage:
    """Which tensors of the checkpoints an architecture names, and which it names that they lack."""

    def __init__(
        self, architecture: ModelArchitecture, tensors: Tensors, options: MergeOptions
    ) -> None:
        self.architecture = architecture
        self.tensors = tensors
        self.weights: dict[ModelReference, list[WeightInfo]] = {}
        self.unplanned: dict[ModelReference, list[str]] = {}
        self.absent: dict[ModelReference, list[str]] = {}
        for model, held in tensors.items():
            config = model.config(trust_remote_code=options.trust_remote_code)
            configured = ConfiguredModelArchitecture(info=architecture, config=config)
            weights = self.weights[model] = configured.all_weights()
            names = {name for weight in weights for name in _names(weight)}
            self.unplanned[model] = [name for name in held if name not in names]
            self.absent[model] = [
                weight.name
                for weight in weights
                if not weight.optional and held.keys().isdisjoint(_names(weight))
            ]

    @property
    def whole(self) -> bool:
        """Whether every stored tensor is named, and every named tensor is stored."""
        return not any(self.unplanned.values()) and not any(self.absent.values())

    def rows(self, model: ModelReference) -> set[int]:
        """The row counts of a model's vocabulary tensors; empty where it has none."""
        held = self.tensors[model]
        return {
            held[name].shape[weight.vocabulary_axis]
            for weight in self.weights[model]
            if weight.vocabulary_axis is not None
            for name in _names(weight)
            if name in held and held[name].ndim > weight.vocabulary_axis
        }

    def unmarked(self, model: ModelReference, rows: Collection[int]) -> list[str]:
        """Tensors not marked as vocabulary tensors, one dimension of which is in `rows`."""
        held = self.tensors[model]
        return [
            name
            for weight in self.weights[model]
            if weight.vocabulary_axis is None and not weight.name.endswith(PER_LAYER)
            for name in _names(weight)
            if name in held and not set(rows).isdisjoint(held[name].shape)
        ]


def _names(weight: WeightInfo) -> tuple[str, ...]:
    return (weight.name, *(weight.aliases or ()), *(weight.tied_names or ()))


def _layouts(tensors: Tensors, options: MergeOptions) -> Layouts | None:
    """Every checkpoint as transformers reads it; None where it cannot build one of the models."""
    known: dict[str, KnownModel | None] = {}
    layouts = {}
    for model, held in tensors.items():
        config = model.config(trust_remote_code=options.trust_remote_code)
        key = config.to_json_string(use_diff=False)
        if key not in known:
            known[key] = known_model(config, trust_remote_code=options.trust_remote_code)
        found = known[key]
        if found is None:
            return None
        layouts[model] = CheckpointLayout(held, found)
    return layouts


def _in_own_names(
    base: ModelReference, layouts: Layouts, options: MergeOptions
) -> ModelArchitecture:
    """An architecture in the base's tensor names, with other models' names as aliases."""
    aliases: dict[str, tuple[str, ...]] = {}
    for model, layout in layouts.items():
        own = layout.own_names()
        for key, new in layouts[base].names.items():
            if model == base or new is None or not new.whole or key in layout.tensors:
                continue
            if new.name in own:
                aliases[key] = tuple(dict.fromkeys([*aliases.get(key, ()), own[new.name]]))
    config = base.config(trust_remote_code=options.trust_remote_code)
    return layouts[base].architecture(config.architectures[0], aliases)


def _judged(
    coverage: _Coverage,
    base: ModelReference,
    layouts: Layouts | None,
    options: MergeOptions,
) -> CompleteArchitecture:
    """Refuse tensors that are missing, and those that would be lost without --allow-crimes."""
    if not coverage.rows(base):
        raise TransplantError(_without_vocabulary(coverage, base, layouts, options))
    for model, absent in coverage.absent.items():
        if layouts is not None and not absent:
            read = {new.name for new in layouts[model].names.values() if new}
            absent = layouts[model].known.lacks(read)
        if absent:
            raise TransplantError(
                f"{model} lacks {_listed(absent)}, which {_architecture(base, options)} "
                f"{'has' if model == base else f'of {base} has'}. Check that its checkpoint is "
                "whole and of the same architecture."
            )
    warnings = []
    for model, names in coverage.unplanned.items():
        lost = set(names)
        if layouts is not None:
            unread = [name for name in names if layouts[model].names[name] is None]
            lost -= layouts[model].known.ignores(unread)
        if not lost:
            continue
        kept = [name for name in names if name in lost]
        what = f"{model} holds {_listed(kept)}, which would not be in the output: "
        why = (
            f"neither mergekit nor transformers knows {_architecture(base, options)} to have "
            f"{'it' if len(kept) == 1 else 'them'}"
        )
        if not options.allow_crimes:
            raise TransplantError(
                f"{what}{why}. Take {'it' if len(kept) == 1 else 'them'} out of the checkpoint, or "
                "merge without by --allow-crimes."
            )
        warnings.append(f"{what.replace('would not be', 'is not')}{why}.")
    return CompleteArchitecture(coverage.architecture, tuple(warnings))


def _without_vocabulary(
    coverage: _Coverage,
    base: ModelReference,
    layouts: Layouts | None,
    options: MergeOptions,
) -> str:
    held = coverage.tensors[base]
    expected = [w.name for w in coverage.weights[base] if w.vocabulary_axis is not None]
    if layouts is not None:
        expected = expected or list(layouts[base].known.axes)
    largest = sorted((name for name in held if held[name].ndim > 1), key=lambda n: -held[n].numel())
    found = ", ".join(f"{name} {list(held[name].shape)}" for name in largest[:3])
    return (
        f"{base} has no vocabulary tensor: {_architecture(base, options)} should have "
        f"{_listed(expected) if expected else 'an input embedding'}, and its checkpoint has "
        f"{len(held)} tensors, the largest of them {found or 'without a matrix'}. Check that its "
        "config names the right architecture, and whether it needs --trust-remote-code."
    )


def _architecture(model: ModelReference, options: MergeOptions) -> str:
    config = model.config(trust_remote_code=options.trust_remote_code)
    return (config.architectures or ["its architecture"])[0]


def _listed(names: Sequence[str]) -> str:
    """'the tensor a', or '7 tensors (a, b, c, d, e, ...)'."""
    if len(names) == 1:
        return f"the tensor {names[0]}"
    shown = ", ".join(names[:_NAMED])
    return f"{len(names)} tensors ({shown}{', ...' if len(names) > _NAMED else ''})"
