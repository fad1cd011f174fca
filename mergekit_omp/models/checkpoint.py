"""All tensors of a checkpoint, by name, from the headers of its files."""

from __future__ import annotations

import os
from collections import defaultdict

import safetensors
import torch
from mergekit.common import ModelReference
from mergekit.io.tasks import LoaderCache
from torch import Tensor

from mergekit_omp.models.headers import FetchedIndex, torch_dtype


def stored_tensors(model: ModelReference) -> dict[str, Tensor]:
    """All tensors of a checkpoint on the meta device, by name. Each file is opened once."""
    index = LoaderCache().get(model).index
    if isinstance(index, FetchedIndex):
        return dict(index.headers)
    files: dict[str, list[str]] = defaultdict(list)
    for name, file in index.tensor_paths.items():
        files[os.path.join(index.base_path, file)].append(name)
    found: dict[str, Tensor] = {}
    for path, names in files.items():
        if not path.endswith(".safetensors"):
            # On the meta device torch reads the structure of the pickle and skips the data.
            pickled = torch.load(path, map_location="meta", weights_only=True)
            pickled = pickled.get("state_dict", pickled)
            found |= {name: pickled[name] for name in names}
            continue
        with safetensors.safe_open(path, framework="pt") as file:
            for name in names:
                stored = file.get_slice(name)
                found[name] = torch.empty(
                    stored.get_shape(), dtype=torch_dtype(stored.get_dtype()), device="meta"
                )
    return {name: found[name] for name in index.tensor_paths}
