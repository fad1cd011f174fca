"""The vocabulary tensors of a model: which they are, what part they play, which rows are usable.

Follows mergekit's architecture definitions (`WeightInfo.vocabulary_axis`), by part and not by
name, since donor and base may differ in architecture.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Shaped
from mergekit.architecture import (
    ConfiguredModelArchitecture,
    WeightInfo,
    arch_info_for_config,
)
from mergekit.architecture.auto import infer_architecture_info
from mergekit.architecture.conversion import can_convert_checkpoint_keys
from mergekit.common import ModelReference, get_auto_cls
from mergekit.io.tasks import LoaderCache, LoadTensor
from mergekit.options import MergeOptions
from torch import Tensor
from transformers import PretrainedConfig

from mergekit_omp.approximation.base import Part
from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.models.headers import at_hand, header, weights_are_read
from mergekit_omp.outside.faults import of_library

EIGHT_BIT_FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2)

PER_LAYER = "embed_tokens_per_layer.weight"
"""A second input embedding, a row for all layers (Gemma 3n and 4), which mergekit does not mark."""


@dataclass(frozen=True)
class VocabularyTensor:
    """One vocabulary tensor of one model, under the names that mergekit knows for it."""

    model: ModelReference
    weight: WeightInfo
    part: Part

    def load_task(self) -> LoadTensor:
        """The task that reads it, in the checkpoint's own dtype; 8-bit floats as bfloat16.

        torch stores these and cannot compute with them; bfloat16 has every one of their values.
        """
        task = self._load_task(None)
        found = header(task)
        eight_bit = found is not None and found.dtype in EIGHT_BIT_FLOATS
        return self._load_task("bfloat16") if eight_bit else task

    def _load_task(self, dtype: str | None) -> LoadTensor:
        return LoadTensor(
            dtype=dtype,
            model=self.model,
            tensor=self.weight.name,
            aliases=self.weight.aliases,
            tied_names=self.weight.tied_names,
            optional=True,
        )

    def stored(self, *, tied: bool = False) -> bool:
        """Whether the checkpoint holds it; with `tied`, a tensor that it is tied to will do."""
        held = LoaderCache().get(self.model).index.tensor_paths
        names = [self.weight.name, *(self.weight.aliases or ())]
        if tied:
            names += self.weight.tied_names or ()
        if any(name in held for name in names):
            return True
        model_type = self.model.config(trust_remote_code=LoaderCache().trust_remote_code).model_type
        return any(can_convert_checkpoint_keys(model_type, set(held), name) for name in names)


@dataclass(frozen=True, eq=False)
class StoredRows:
    """What is known of a vocabulary tensor before the merge runs."""

    count: int
    width: int
    """Numbers per row: the hidden size, or 1 for a bias."""
    usable: np.ndarray
    """Per row: all finite, and not all zero. Planned from headers alone, every row is."""
    finite: np.ndarray
    """Per row: all finite."""
    digest: bytes | None
    """SHA-256 of its shape, dtype and numbers; None where it was planned from headers alone."""


def read_rows(tensor: VocabularyTensor) -> StoredRows:
    """Read the tensor once, a block of rows at a time, and keep only what planning needs.

    Raises LookupError where the model has no such tensor.
    """
    if not weights_are_read() and not at_hand(tensor.model):
        return _rows_of_header(tensor)
    with of_library(
        f"{tensor.weight.name} of {tensor.model} cannot be read",
        "Copy or download the model again, whole, or name another.",
    ):
        matrix = tensor.load_task().execute()
    if matrix is None:
        raise LookupError(tensor.weight.name)
    axis = tensor.weight.vocabulary_axis or 0
    return _read(matrix.movedim(axis, 0).flatten(1) if matrix.ndim > 1 else matrix.unsqueeze(1))


def _read(matrix: Shaped[Tensor, "rows width"]) -> StoredRows:
    """What there is to know of a matrix, in one pass over its rows."""
    count, width = matrix.shape
    usable, finite = np.empty(count, bool), np.empty(count, bool)
    digest = hashlib.sha256(f"{matrix.dtype} {count} {width} ".encode())
    for block in chunks(count, 3 * width * matrix.element_size()):
        rows = matrix[block]
        finite[block] = torch.isfinite(rows).all(1).numpy(force=True)
        usable[block] = finite[block] & (rows != 0).any(1).numpy(force=True)
        digest.update(rows.contiguous().view(torch.uint8).numpy(force=True).data)
    return StoredRows(count, width, usable, finite, digest.digest())


def _rows_of_header(tensor: VocabularyTensor) -> StoredRows:
    found = header(tensor.load_task())
    if found is None:
        raise LookupError(tensor.weight.name)
    count = found.shape[tensor.weight.vocabulary_axis] if found.ndim > 1 else len(found)
    every = np.ones(count, bool)
    width = found.numel() // max(count, 1)
    return StoredRows(count, width, usable=every, finite=every, digest=None)


def architecture_of(model: ModelReference, options: MergeOptions) -> ConfiguredModelArchitecture:
    """The architecture of a model that need not be part of the merge."""
    with of_library(f"{model} is of no architecture that mergekit can read", "Name another model."):
        config = model.config(trust_remote_code=options.trust_remote_code)
        info = arch_info_for_config(config)
        if info is None:
            info = infer_architecture_info((model,), model, options)
        return ConfiguredModelArchitecture(info=info, config=config)


def vocabulary_parts(architecture: ConfiguredModelArchitecture) -> dict[str, Part]:
    """The part that each vocabulary tensor of an architecture plays, by tensor name."""
    parts = {}
    for name in architecture.info.modules:
        module = architecture.get_module(name)
        for weight in module.pre_weights():
            if weight.vocabulary_axis is not None:
                parts[weight.name] = Part.INPUT
        for weight in module.post_weights():
            if weight.vocabulary_axis is not None:
                parts[weight.name] = _output_part(weight.name)
    if not architecture.info.architectures:
        # An inferred definition has no weights after the layers: ask the model's own class.
        for name in _output_names(architecture.config):
            if name in parts:
                parts[name] = _output_part(name)
    return parts


def vocabulary_tensors(
    model: ModelReference, architecture: ConfiguredModelArchitecture
) -> dict[Part, VocabularyTensor]:
    """A model's vocabulary tensors by part, those that its checkpoint holds."""
    parts = vocabulary_parts(architecture)
    found: dict[Part, VocabularyTensor] = {}
    for module in architecture.info.modules:
        configured = architecture.get_module(module)
        for weight in (*configured.pre_weights(), *configured.post_weights()):
            if weight.name not in parts or parts[weight.name] in found:
                continue
            tensor = VocabularyTensor(model=model, weight=weight, part=parts[weight.name])
            if tensor.stored():
                found[tensor.part] = tensor
    return found


def says_tied(config: PretrainedConfig) -> bool:
    """Whether a config says that the input embedding is the head too."""
    return bool(
        getattr(config, "tie_word_embeddings", False)
        or getattr(config.get_text_config(), "tie_word_embeddings", False)
    )


def _output_part(name: str) -> Part:
    return Part.HEAD_BIAS if name.endswith("bias") else Part.HEAD


def _output_names(config: PretrainedConfig) -> list[str]:
    with torch.device("meta"):
        model = get_auto_cls(config.architectures[0]).from_config(config)
    head = model.get_output_embeddings()
    if head is None:
        return []
    inputs = getattr(model.get_input_embeddings(), "weight", None)
    own = {id(p) for p in head.parameters() if p is not inputs}
    return [name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in own]
