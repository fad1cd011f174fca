"""The vocabulary tensors of a model: which they are, their parts, and which rows are usable.

They are found by mergekit's architecture definitions (`WeightInfo.vocabulary_axis`). Tensors of
donor and base are matched by part (input embedding, head, head bias) and not by name, since the two
may differ in architecture.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Shaped
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
"""The per-layer input embedding of Gemma 3n and 4: a row holds one vector for every layer.

mergekit does not mark it as a vocabulary tensor.
"""


@dataclass(frozen=True)
class VocabularyTensor:
    """One vocabulary tensor of one model, with the names under which mergekit looks for it."""

    model: ModelReference
    weight: WeightInfo
    part: Part

    def load_task(self) -> LoadTensor:
        """The task that reads it in the checkpoint's own dtype, or in bfloat16 for 8-bit floats.

        torch cannot compute with 8-bit floats, and bfloat16 represents all of them exactly.
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
        """Whether the checkpoint holds it or, with `tied`, a tensor that it is tied to."""
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
    """What planning needs to know of a vocabulary tensor, one row per token."""

    count: int
    """How many rows there are."""
    width: int
    """Numbers per row: the hidden size, or 1 for a bias."""
    usable: Bool[np.ndarray, "rows"]
    """Which rows are finite and not all zero. All of them, if only the header was read."""
    finite: Bool[np.ndarray, "rows"]
    """Which rows are finite. All of them, if only the header was read."""
    digest: bytes | None
    """SHA-256 of dtype, shape and numbers; None if only the header was read."""


def read_rows(tensor: VocabularyTensor) -> StoredRows:
    """Load the tensor and go through its rows once, in blocks that bound the temporary memory.

    Within `headers_only`, a tensor that is not on this machine is known by its header alone. Raises
    LookupError where the model has no such tensor, TransplantError where it cannot be read.
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
    count, width = matrix.shape
    usable, finite = np.empty(count, bool), np.empty(count, bool)
    digest = hashlib.sha256(f"{matrix.dtype} {count} {width} ".encode())
    for block in chunks(count, 3 * width * matrix.element_size()):
        rows = matrix[block]
        finite[block] = torch.isfinite(rows).all(1).numpy(force=True)
        usable[block] = finite[block] & (rows != 0).any(1).numpy(force=True)
        # Flat, since a bias of shape (1, rows) has strides that torch cannot view as bytes.
        digest.update(rows.flatten().view(torch.uint8).numpy(force=True).data)
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
    """The architecture of any model: mergekit's definition, or one inferred from the checkpoint."""
    with of_library(f"{model} is of no architecture that mergekit can read", "Name another model."):
        config = model.config(trust_remote_code=options.trust_remote_code)
        info = arch_info_for_config(config)
        if info is None:
            info = infer_architecture_info((model,), model, options)
        return ConfiguredModelArchitecture(info=info, config=config)


def vocabulary_parts(architecture: ConfiguredModelArchitecture) -> dict[str, Part]:
    """The part of each vocabulary tensor of an architecture, by the name of the tensor."""
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
        # An inferred definition does not tell the head from the embedding; the model's class does.
        for name in _output_names(architecture.config):
            if name in parts:
                parts[name] = _output_part(name)
    return parts


def vocabulary_tensors(
    model: ModelReference, architecture: ConfiguredModelArchitecture
) -> dict[Part, VocabularyTensor]:
    """The vocabulary tensors that a model's checkpoint holds, by part."""
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
    """Whether `tie_word_embeddings` is set: the input embedding is the head too."""
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
