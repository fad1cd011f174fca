"""What transformers knows of a model: its tensors, and which of them have one row per token.

The model is built from its config without data (on the meta device), once with the config's
vocabulary size and once with a larger one: a tensor whose shape changes is a vocabulary tensor,
and the dimension that changes is the one with an entry per token. Names of tensors in a checkpoint
are translated by transformers' own conversion mapping.
"""

from __future__ import annotations

import copy
import logging
import threading
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
# `no_init_weights` replaces torch's functions in the whole process and puts back what it found: two
# threads within it at once would leave the process without initialisation of weights.
_no_init = threading.RLock()


@dataclass(frozen=True)
class Renamed:
    """What transformers makes of a tensor in a checkpoint."""

    name: str
    """The parameter or buffer of the model that it becomes, or becomes a part of."""
    whole: bool
    """Whether it becomes that tensor unchanged; False where it is stacked, split or converted."""


class KnownModel:
    """A model of transformers on the meta device: names, shapes and dtypes, and no data."""

    def __init__(self, config: PretrainedConfig, *, trust_remote_code: bool):
        """Raises whatever transformers, or the model's own code, raises while building it."""
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
        """The vocabulary tensors by name, each with the dimension that has one entry per token."""
        self._parts = self._matrices()

    def shape(self, name: str) -> torch.Size:
        """The shape of the model's tensor `name`."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of the model's tensor `name`, which the config decides."""
        return self._tensors[name].dtype

    def part(self, name: str) -> Part | None:
        """Input embedding, head or head bias, for a vocabulary tensor.

        None where it is none of them.
        """
        if name in self._parts:
            return self._parts[name]
        tensor = self._tensors[name]
        if tensor.numel() == tensor.shape[self.axes[name]] and name.endswith("bias"):
            return Part.HEAD_BIAS
        return None

    def names(self, keys: Iterable[str]) -> dict[str, Renamed | None]:
        """For each tensor name of a checkpoint, what it becomes.

        None where transformers drops it.
        """
        mapping = get_model_conversion_mapping(self._model)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        place = {
            "base_model_prefix": self._model.base_model_prefix,
            "meta_state_dict": self._tensors,
        }
        found: dict[str, Renamed | None] = {}
        # Renamed in the order of transformers' `convert_and_load_state_dict_in_model`.
        for key in sorted(keys, key=dot_natural_key):
            name, pattern = rename_source_key(key, renamings, converters, **place)
            if name not in self._tensors and key in self._tensors:
                name, pattern = rename_source_key(key, [], [], **place)
            found[key] = Renamed(name, pattern is None) if name in self._tensors else None
        return found

    def ignores(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that transformers drops without a warning when it loads them."""
        keys = set(keys)
        info = LoadStateDictInfo(set(), set(keys), set(), [], {}, set())
        self._model._adjust_missing_and_unexpected_keys(info)
        # A buffer that is not saved is computed from the config.
        made = {name for name, _ in self._model.named_buffers()}
        return {key for key in keys if key not in info.unexpected_keys or key in made}

    def lacks(self, names: Collection[str], *, inputs: bool = False) -> list[str]:
        """The parameters that are neither among `names` nor tied to one that is.

        Vocabulary tensors are not reported, but input embeddings are where `inputs` is set.
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
    """The model of a config; None where transformers cannot build it."""
    try:
        return KnownModel(config, trust_remote_code=trust_remote_code)
    # A model's own code may raise any of these, for instance where its config lacks a key.
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
    """Set the vocabulary size in the text config, which is where models look for it.

    mergekit sets it at the top level alone, where some families (Qwen2.5-VL) do not read it.
    """
    text = config.get_text_config()
    text.vocab_size = rows
    if hasattr(text, "vocab_size_per_layer_input"):
        text.vocab_size_per_layer_input = rows


def without_data(config: PretrainedConfig, *, trust_remote_code: bool) -> Any:
    """The model of a config on the meta device. Raises whatever transformers raises."""
    name = (config.architectures or [""])[0]
    with _no_init, torch.device("meta"), no_init_weights():
        if hasattr(transformers, name):
            model = getattr(transformers, name)._from_config(config)
        else:
            model = get_auto_cls(name).from_config(config, trust_remote_code=trust_remote_code)
    model.tie_weights()
    return model
