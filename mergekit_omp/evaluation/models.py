"""Models by name, for evaluation: loading them, and what a transplant's record says of them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from mergekit.config import MergeConfiguration
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mergekit_omp.evaluation.scoring import positions
from mergekit_omp.record.id_ranges import read
from mergekit_omp.record.record import FILE_NAME
from mergekit_omp.transplant.config import models_in_order

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
    if not os.path.exists(name) and (name[:1] in "/.~" or name.count("/") > 1):
        raise ValueError(f"{name} cannot be loaded: there is no such directory")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=loading.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(_not_loaded(name, error)) from error
    return positions(config)


def load_tokenizer(name: str, loading: Loading) -> PreTrainedTokenizerBase:
    """A model's tokenizer. ValueError, naming the model, where there is none."""
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=loading.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(_not_loaded(f"the tokenizer of {name}", error)) from error


def load_model(name: str, loading: Loading) -> PreTrainedModel:
    """A causal language model on its device. ValueError, naming it, where it cannot be loaded."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=loading.torch_dtype(), trust_remote_code=loading.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ValueError(_not_loaded(name, error)) from error
    return model.to(loading.torch_device()).eval()


def record_of(name: str) -> dict[str, Any] | None:
    """The record of the transplant that a model directory came from, if it is of one."""
    path = Path(name) / FILE_NAME
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def merged_base(name: str) -> str | None:
    """The base of the merge that a model directory came from, by the config that lies there.

    The record's own name for it is short where it is a local path.
    """
    try:
        text = (Path(name) / _CONFIG).read_text(encoding="utf-8")
        config = MergeConfiguration.model_validate(yaml.safe_load(text))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return str(config.base_model or models_in_order(config)[0])


def approximated_ids(record: dict[str, Any]) -> np.ndarray | None:
    """Ids whose row at least one of the merged models lacked; None if the record does not say."""
    listed = [model.get("approximated_ids") for model in record["models"] if model["tensors"]]
    if any(ids is None for ids in listed):
        return None
    return np.unique(np.concatenate([read(""), *(read(ids) for ids in listed)]))


def _not_loaded(what: str, error: Exception) -> str:
    reason = " ".join(str(error).strip().split("\n")[0].split())
    return f"{what} cannot be loaded ({reason})"
