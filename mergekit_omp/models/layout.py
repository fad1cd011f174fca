"""An architecture in a checkpoint's own tensor names, where mergekit's definition is not enough.

mergekit plans a merge from hand-written definitions, or from the names that transformers gives to a
model's tensors. A checkpoint may use other names (`language_model.model.` for
`model.language_model.`, one tensor per expert where transformers has a stack). An architecture made
from the names in the file covers every tensor of the file, and the output keeps these names.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from mergekit.architecture import ModelArchitecture, ModuleDefinition, WeightInfo
from mergekit.architecture.json_definitions import (
    JsonLayerTemplates,
    JsonModuleArchDef,
    JsonModuleArchitecture,
)
from torch import Tensor

from mergekit_omp.approximation.base import Part
from mergekit_omp.models.known_model import KnownModel, Renamed

_LAYER = re.compile(r"\.(\d+)\.")
_INDEX = ".${layer_index}."
# Copies of the embedding and the head in layers that predict further tokens.
_EMBEDDING = re.compile(r"(^|[._])(embed_tokens|embed|word_embeddings|wte)\.weight$")
_HEAD = re.compile(r"(^|[._])(head|lm_head|embed_out)\.weight$")


@dataclass(frozen=True)
class Unplaced(Exception):
    """A tensor with one entry per token that is neither embedding, head nor head bias."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class CheckpointLayout:
    """The tensors of a checkpoint, and what transformers makes of each."""

    tensors: Mapping[str, Tensor]
    known: KnownModel
    names: Mapping[str, Renamed | None] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", self.known.names(self.tensors))

    def own_names(self) -> dict[str, str]:
        """The names in the checkpoint of tensors that it holds unchanged, by those in the model."""
        return {new.name: key for key, new in self.names.items() if new and new.whole}

    def vocabulary(self) -> dict[str, tuple[Part, int]]:
        """For each vocabulary tensor its part, and the dimension with one entry per token.

        Raises Unplaced.
        """
        found: dict[str, tuple[Part, int]] = {}
        for key, new in self.names.items():
            if new and new.name in self.known.axes:
                part = self.known.part(new.name) if new.whole else None
                if part is None:
                    raise Unplaced(key, tuple(self.tensors[key].shape))
                found[key] = part, self.known.axes[new.name]
        rows = {self.tensors[key].shape[axis] for key, (_, axis) in found.items()}
        ignored = self.known.ignores(key for key, new in self.names.items() if new is None)
        for key, new in self.names.items():
            shape = self.tensors[key].shape
            if new or rows.isdisjoint(shape):
                continue
            axis = next(i for i, size in enumerate(shape) if size in rows)
            if _EMBEDDING.search(key) and axis == 0 and len(shape) == 2:
                found[key] = Part.INPUT, axis
            elif _HEAD.search(key) and axis == 0 and len(shape) == 2:
                found[key] = Part.HEAD, axis
            elif key not in ignored:
                raise Unplaced(key, tuple(shape))
        return found

    def left_out(self) -> set[str]:
        """Buffers that transformers computes itself, such as positions and masks."""
        unread = [key for key, new in self.names.items() if new is None]
        vocabulary = self.vocabulary()
        rows = {self.tensors[key].shape[axis] for key, (_, axis) in vocabulary.items()}
        return {
            key
            for key in self.known.ignores(unread)
            if not self.tensors[key].is_floating_point()
            or (key not in vocabulary and not rows.isdisjoint(self.tensors[key].shape))
        }

    def architecture(self, name: str, aliases: Mapping[str, tuple[str, ...]]) -> ModelArchitecture:
        """A definition from which mergekit plans every tensor under its name in the checkpoint.

        `aliases` are other names that a tensor has in other models of the merge. Vocabulary
        tensors come first and last, where `vocabulary_parts` looks for them. Raises Unplaced.
        """
        vocabulary, left_out = self.vocabulary(), self.left_out()
        entries: list[WeightInfo] = []
        loose: list[WeightInfo] = []
        outputs: list[WeightInfo] = []
        layers: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        # First the tensors that transformers reads, then copies of them that it drops.
        for key in sorted(vocabulary, key=lambda key: self.names[key] is None):
            part, axis = vocabulary[key]
            weight = self._weight(key, aliases.get(key), axis)
            (entries if part == Part.INPUT else outputs).append(weight)
        for key in self.tensors:
            if key in vocabulary or key in left_out:
                continue
            layer = _LAYER.search(key)
            if layer and self.names[key]:
                layers[key[: layer.start()]][int(layer[1])].append(key)
            else:
                loose.append(self._weight(key, aliases.get(key)))
        modules = {
            ("default" if len(layers) == 1 else prefix): _module(
                self._templates(keys, aliases), max(keys) + 1
            )
            for prefix, keys in layers.items()
        }
        default = modules.get("default") or _module([], 0)
        definition = default.definition.model_copy(
            update={"pre_weights": [*entries, *loose], "post_weights": outputs}
        )
        modules = {"default": JsonModuleArchitecture(definition=definition), **modules}
        modules["default"] = JsonModuleArchitecture(definition=definition)
        return ModelArchitecture(
            modules={key: ModuleDefinition(architecture=module) for key, module in modules.items()},
            architectures=[name],
            model_type="",
        )

    def _templates(
        self, layers: Mapping[int, list[str]], aliases: Mapping[str, tuple[str, ...]]
    ) -> list[WeightInfo]:
        """One template per tensor name within a layer; optional where some layers lack it."""
        found: dict[str, tuple[int, str]] = {}
        for keys in layers.values():
            for key in keys:
                template = _template(key)
                found[template] = (found.get(template, (0, ""))[0] + 1, key)
        return [
            self._weight(key, aliases.get(key), template=template, optional=count <= max(layers))
            for template, (count, key) in found.items()
        ]

    def _weight(
        self,
        key: str,
        aliases: tuple[str, ...] | None,
        axis: int | None = None,
        template: str | None = None,
        optional: bool = False,
    ) -> WeightInfo:
        if template:
            aliases = tuple(_template(alias) for alias in aliases or ())
        whole_numbers = self.tensors[key].dtype == torch.int64
        return WeightInfo(
            name=template or key,
            vocabulary_axis=axis,
            optional=optional,
            aliases=aliases or None,
            force_dtype="int64" if whole_numbers else None,
        )


def _template(key: str) -> str:
    return _LAYER.sub(_INDEX, key, count=1)


def _module(templates: list[WeightInfo], layers: int) -> JsonModuleArchitecture:
    return JsonModuleArchitecture(
        definition=JsonModuleArchDef(
            model_type="",
            architectures=[],
            pre_weights=[],
            layer_templates=JsonLayerTemplates(weights=templates),
            post_weights=[],
            override_num_layers=layers,
        )
    )
