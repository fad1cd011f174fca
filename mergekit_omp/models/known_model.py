"""What transformers knows of a model: the names of its tensors, and which of them have a row a token.

A model is put together from its config without data (on the meta device), once with the config's
number of rows and once with more: what changes its shape is a vocabulary tensor, along the
dimension that changed. The names under which a checkpoint may hold tensors are translated by
transformers' own conversion mapping.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from mergekit.common import get_auto_cls
from transformers import PretrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.initialization import no_init_weights
from transformers.utils.loading_report import LoadStateDictInfo

from mergekit_omp.approximation.base import Part

LOG = logging.getLogger(__name__)

_MORE_ROWS = 64


@dataclass(frozen=True)
class Renamed:
    """What a checkpoint's tensor is to transformers."""

    name: str
    """The name of the model's tensor that it becomes, or becomes a part of."""
    whole: bool
    """Whether it is that tensor; else it is stacked, split or otherwise changed."""


class KnownModel:
    """A model of transformers, without data."""

    def __init__(self, config: PretrainedConfig, *, trust_remote_code: bool):
        """Raises what transformers raises where it cannot put the model together."""
        self._model = without_data(config, trust_remote_code=trust_remote_code)
        self._tensors = self._model.state_dict()
        wider = copy.deepcopy(config)
        set_vocabulary_size(wider, config.get_text_config().vocab_size + _MORE_ROWS)
        changed = without_data(wider, trust_remote_code=trust_remote_code).state_dict()
        self.axes: dict[str, int] = {
            name: axis
            for name, tensor in self._tensors.items()
            for axis, (size, other) in enumerate(
                zip(tensor.shape, changed[name].shape, strict=True)
            )
            if size != other
        }
        """The vocabulary tensors by name, with the dimension that has one entry a token."""
        self._parts = self._matrices()

    def shape(self, name: str) -> torch.Size:
        """The shape of one of its tensors."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of one of its tensors, as the config has it."""
        return self._tensors[name].dtype

    def part(self, name: str) -> Part | None:
        """The part that a vocabulary tensor plays; None where none is known."""
        if name in self._parts:
            return self._parts[name]
        tensor = self._tensors[name]
        if tensor.numel() == tensor.shape[self.axes[name]] and name.endswith("bias"):
            return Part.HEAD_BIAS
        return None

    def names(self, keys: Iterable[str]) -> dict[str, Renamed | None]:
        """What each of a checkpoint's tensors becomes; None for one that is not read."""
        mapping = get_model_conversion_mapping(self._model)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        place = {
            "base_model_prefix": self._model.base_model_prefix,
            "meta_state_dict": self._tensors,
        }
        found: dict[str, Renamed | None] = {}
        # As `convert_and_load_state_dict_in_model` does it, and in its order.
        for key in sorted(keys, key=dot_natural_key):
            name, pattern = rename_source_key(key, renamings, converters, **place)
            if name not in self._tensors and key in self._tensors:
                name, pattern = rename_source_key(key, [], [], **place)
            found[key] = Renamed(name, pattern is None) if name in self._tensors else None
        return found

    def ignores(self, keys: Iterable[str]) -> set[str]:
        """Those of the tensors that it does not read which transformers passes over in silence."""
        keys = set(keys)
        info = LoadStateDictInfo(set(), set(keys), set(), [], {}, set())
        self._model._adjust_missing_and_unexpected_keys(info)
        # A buffer that is not saved is made anew from the config.
        made = {name for name, _ in self._model.named_buffers()}
        return {key for key in keys if key not in info.unexpected_keys or key in made}

    def lacks(self, names: Collection[str], *, inputs: bool = False) -> list[str]:
        """Parameters that are neither among `names` nor tied to one; those of the vocabulary apart.

        With `inputs`, input embeddings count too.
        """
        parameters = list(self._model.named_parameters(remove_duplicate=False))
        held = {id(tensor) for name, tensor in parameters if name in names}
        missing = {
            name
            for name, tensor in parameters
            if id(tensor) not in held
            and name in self._tensors
            and (name not in self.axes or (inputs and self._parts.get(name) == Part.INPUT))
        }
        info = LoadStateDictInfo(missing, set(), set(), [], {}, set())
        self._model._adjust_missing_and_unexpected_keys(info)
        return [name for name, _ in parameters if name in info.missing_keys]

    def _matrices(self) -> dict[str, Part]:
        entry = getattr(self._model.get_input_embeddings(), "weight", None)
        head = self._model.get_output_embeddings()
        parts = {}
        for name, tensor in self._model.named_parameters(remove_duplicate=False):
            if name not in self.axes:
                continue
            if tensor is entry:
                parts[name] = Part.INPUT
            elif head is not None and tensor is getattr(head, "weight", None):
                parts[name] = Part.HEAD
            elif head is not None and tensor is getattr(head, "bias", None):
                parts[name] = Part.HEAD_BIAS
            else:
                module = self._model.get_submodule(name.rpartition(".")[0])
                if isinstance(module, torch.nn.Embedding):
                    parts[name] = Part.INPUT
                elif isinstance(module, torch.nn.Linear) and name.endswith("weight"):
                    parts[name] = Part.HEAD
        return parts


def known_model(config: PretrainedConfig, *, trust_remote_code: bool) -> KnownModel | None:
    """None where transformers cannot put the model together from its config."""
    try:
        return KnownModel(config, trust_remote_code=trust_remote_code)
    # Whatever the model's own code raises, for instance of a config that lacks a key.
    except (
        AttributeError,
        ImportError,
        KeyError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        LOG.debug("transformers cannot build %s: %s", config.architectures, error)
        return None


def set_vocabulary_size(config: PretrainedConfig, rows: int) -> None:
    """Set the number of rows where the model looks for it: in its text config.

    mergekit sets one key, which for some families (Qwen2.5-VL) is one that nothing reads.
    """
    text = config.get_text_config()
    text.vocab_size = rows
    if hasattr(text, "vocab_size_per_layer_input"):
        text.vocab_size_per_layer_input = rows


def without_data(config: PretrainedConfig, *, trust_remote_code: bool) -> Any:
    """A model of transformers on the meta device. Raises what transformers raises."""
    name = (config.architectures or [""])[0]
    with torch.device("meta"), no_init_weights():
        if hasattr(transformers, name):
            model = getattr(transformers, name)._from_config(config)
        else:
            model = get_auto_cls(name).from_config(config, trust_remote_code=trust_remote_code)
    model.tie_weights()
    return model
