"""Models by name, for evaluation: loading them, and what a transplant's record says of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mergekit.common import ModelPath, ModelReference
from mergekit.config import MergeConfiguration
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mergekit_omp.errors import TransplantError
from mergekit_omp.evaluation.scoring import positions
from mergekit_omp.growth import register
from mergekit_omp.models.configs import check_layers, read_config
from mergekit_omp.models.tokenizer_files import open_tokenizer
from mergekit_omp.models.weight_files import check_weights
from mergekit_omp.outside.faults import of_library
from mergekit_omp.outside.files import read_yaml
from mergekit_omp.record.id_ranges import read
from mergekit_omp.record.reading import record_beside
from mergekit_omp.record.record import FILE_NAME
from mergekit_omp.transplant.config import models_in_order

# So that models which were grown are read without remote code.
register()

DTYPES = ("auto", "float32", "bfloat16", "float16")


_CONFIG = "mergekit_config.yml"


@dataclass(frozen=True)
class Loading:
    """How models are loaded."""

    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False

    def torch_device(self) -> torch.device:
        """ "auto" is the GPU where there is one. ValueError for a device that cannot be used."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.empty(0, device=self.device).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"the device {self.device!r} cannot be used ({reason}): write cpu or cuda"
            ) from error

    def torch_dtype(self) -> torch.dtype | str:
        """ "auto" is float32 on a CPU, and elsewhere the dtype that the model is stored in."""
        if self.dtype == "auto":
            return torch.float32 if self.torch_device().type == "cpu" else "auto"
        found: torch.dtype = getattr(torch, self.dtype)
        return found


def longest_context(name: str, loading: Loading) -> int | None:
    """How many positions a model was made for, by its config alone."""
    model = ModelReference(model=ModelPath(path=name))
    return positions(read_config(model, trust_remote_code=loading.trust_remote_code))


def load_tokenizer(name: str, loading: Loading) -> PreTrainedTokenizerBase:
    """A model's tokenizer. TransplantError, naming the model, where there is none."""
    return open_tokenizer(name, trust_remote_code=loading.trust_remote_code)


def load_model(name: str, loading: Loading) -> PreTrainedModel:
    """A causal language model on its device. TransplantError where it is not there, or not whole."""
    if os.path.exists(name):
        tensors = check_weights(name, "The model")
        model = ModelReference(model=ModelPath(path=name))
        config = read_config(model, trust_remote_code=loading.trust_remote_code)
        check_layers(config, tensors, name)
    with of_library(
        f"The model {name} cannot be loaded",
        "Name a causal language model whose config.json and weights belong together.",
    ):
        loaded, info = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=loading.torch_dtype(),
            trust_remote_code=loading.trust_remote_code,
            output_loading_info=True,
        )
    check_whole(info, name)
    return on_device(loaded, name, loading)


def check_whole(info: Mapping[str, Any], name: str) -> None:
    """Refuse a model by transformers' loading info where tensors were missing: it makes them up."""
    missing = sorted(map(str, [*info["missing_keys"], *(info.get("mismatched_keys") or ())]))
    if missing:
        raise TransplantError(
            f"The weights of {name} lack {len(missing)} of the model's tensors, of which one is "
            f"{missing[0]}. Name a model that is whole."
        )


def on_device(model: PreTrainedModel, name: str, loading: Loading) -> PreTrainedModel:
    """A model on the device that texts are read on, in evaluation mode."""
    with of_library(f"The model {name} cannot be put on {loading.device}", "Name another device."):
        moved: PreTrainedModel = model.to(loading.torch_device()).eval()
    return moved


def record_of(name: str) -> dict[str, Any] | None:
    """The record of the transplant that a model directory came from, if it is of one."""
    return record_beside(Path(name))


def merged_base(name: str) -> str | None:
    """The base of the merge that a model directory came from, by the config that lies there.

    The record's own name for it is short where it is a local path.
    """
    path = Path(name) / _CONFIG
    if not path.is_file():
        return None
    content = read_yaml(path, "Merge again, or remove it.")
    with of_library(f"{path} is no merge's config", "Merge again, or remove it."):
        config = MergeConfiguration.model_validate(content)
    return str(config.base_model or models_in_order(config)[0])


def approximated_ids(record: dict[str, Any], name: str) -> np.ndarray | None:
    """Ids whose row at least one of the merged models lacked; None if the record does not say."""
    listed = [model.get("approximated_ids") for model in record["models"] if model["tensors"]]
    if any(ids is None for ids in listed):
        return None
    size = record["output"]["vocab_size"]
    try:
        found = [read(ids, size) for ids in listed]
    except ValueError as error:
        raise TransplantError(
            f"{Path(name) / FILE_NAME} gives `approximated_ids` that are no ids of its tokenizer "
            f"({error}). Merge again."
        ) from error
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *found]))
