"""Shapes and dtypes of tensors, read from the headers of a checkpoint's files.

Within `headers_only`, as in `mergekit-omp inspect`, a merge is planned without downloading weights.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

import huggingface_hub
import safetensors
import torch
from mergekit.architecture.conversion import convert_checkpoint_tensors
from mergekit.common import ModelReference, dtype_from_name
from mergekit.io.lazy_tensor_loader import ShardedTensorIndex
from mergekit.io.tasks import LoaderCache, LoadTensor
from torch import Tensor

_headers_only: ContextVar[bool] = ContextVar("headers_only", default=False)
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F4": torch.float4_e2m1fn_x2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
"""By the names of the safetensors format."""


@contextlib.contextmanager
def headers_only() -> Iterator[None]:
    """Plan without downloading weights.

    Every row of a model that is not on this machine counts as usable.
    """
    token = _headers_only.set(True)
    try:
        yield
    finally:
        _headers_only.reset(token)


def weights_are_read() -> bool:
    """Whether planning may download and read weights: True outside of `headers_only`."""
    return not _headers_only.get()


def at_hand(model: ModelReference) -> bool:
    """Whether a model's weights are on this machine, so that reading them downloads nothing."""
    return not isinstance(LoaderCache().get(model).index, FetchedIndex)


@dataclass
class FetchedIndex(ShardedTensorIndex):
    """The index of a checkpoint on the Hub of which only the headers were downloaded."""

    headers: dict[str, Tensor] = field(default_factory=dict)
    """Tensors by name, on the meta device."""


def fetch_index(repository: str, revision: str | None) -> FetchedIndex:
    """Download the headers of a repository's safetensors files.

    Raises huggingface_hub's errors where there is no such repository, or it has no such files.
    """
    found = huggingface_hub.get_safetensors_metadata(repository, revision=revision)
    headers = {
        name: torch.empty(tensor.shape, dtype=torch_dtype(tensor.dtype), device="meta")
        for file in found.files_metadata.values()
        for name, tensor in file.tensors.items()
    }
    return FetchedIndex(
        base_path=repository,
        is_safetensors=True,
        tensor_paths=dict(found.weight_map),
        shards=[],
        headers=headers,
    )


def header(task: LoadTensor) -> Tensor | None:
    """The tensor that `task` would load, on the meta device; None where there is none."""
    found = _found(task)
    return found if found is None or task.dtype is None else found.to(dtype_from_name(task.dtype))


def _found(task: LoadTensor) -> Tensor | None:
    index = LoaderCache().get(task.model).index
    for name in (task.tensor, *(task.aliases or ()), *(task.tied_names or ())):
        if name in index.tensor_paths:
            return _stored(index, name)
    model_type = task.model.config(trust_remote_code=LoaderCache().trust_remote_code).model_type
    sources = {name: (lambda name=name: _stored(index, name)) for name in index.tensor_paths}
    for name in (task.tensor, *(task.aliases or ())):
        converted = convert_checkpoint_tensors(model_type, sources, name)
        if converted is not None:
            return converted
    return None


def torch_dtype(name: str) -> torch.dtype:
    """The dtype that safetensors calls `name`; uint8 where torch has no such dtype."""
    return _DTYPES.get(name, torch.uint8)


def _stored(index: ShardedTensorIndex, name: str) -> Tensor:
    if isinstance(index, FetchedIndex):
        return index.headers[name]
    path = os.path.join(index.base_path, index.tensor_paths[name])
    if not path.endswith(".safetensors"):
        # On the meta device torch reads the structure of the pickle and skips the data.
        pickled: dict[str, Tensor] = torch.load(path, map_location="meta", weights_only=True)
        return pickled[name]
    with safetensors.safe_open(path, framework="pt") as file:
        stored = file.get_slice(name)
        return torch.empty(stored.get_shape(), dtype=torch_dtype(stored.get_dtype()), device="meta")
