"""Checks a merge's inputs before mergekit opens any of them.

The checks are run from `get_architecture_info`, the first function that mergekit calls for a merge,
so that merges and `inspect` report a broken file in the same sentence.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import sys
from typing import Any

import torch
from mergekit.architecture import ModelArchitecture
from mergekit.common import ModelReference, dtype_from_name
from mergekit.config import ConditionalParameter, MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions

from mergekit_omp.errors import TransplantError
from mergekit_omp.models.configs import check_layers, check_path, is_grown, read_config
from mergekit_omp.models.headers import weights_are_read
from mergekit_omp.models.weight_files import check_weights
from mergekit_omp.outside.faults import of_library
from mergekit_omp.outside.files import read_json
from mergekit_omp.transplant.config import (
    check_parameters,
    models_in_order,
    parameter_blocks,
    tokenizer_source,
)
from mergekit_omp.transplant.methods import find


def install() -> None:
    """Patch `get_architecture_info` in every module of mergekit that has imported it."""
    from mergekit import architecture

    original = architecture.get_architecture_info

    @functools.wraps(original)
    def get_architecture_info(config: MergeConfiguration, options: MergeOptions) -> Any:
        if find(config.merge_method) is None:
            return original(config, options)
        check_inputs(config, options)
        with of_library(
            "mergekit cannot put these models together",
            "Name models of one architecture that mergekit knows, each with its own config.json.",
        ):
            found = original(config, options)
        from mergekit import merge

        _check_layers(config, found, options)
        with of_library("mergekit cannot make a config for the output", "Correct the config."):
            merge._model_out_config(config, found, trust_remote_code=options.trust_remote_code)
        if weights_are_read():
            _open_models(config, options)
        return found

    for module in (architecture, sys.modules.get("mergekit.merge")):
        if getattr(module, "get_architecture_info", None) is original:
            setattr(module, "get_architecture_info", get_architecture_info)  # noqa: B010


def check_inputs(config: MergeConfiguration, options: MergeOptions) -> None:
    """Raise TransplantError for inputs on which the merge would fail later, or unnoticed."""
    method = find(config.merge_method)
    assert method is not None
    if weights_are_read():
        # A dry run may be for another machine.
        _check_device(options)
    source = tokenizer_source(config)
    check_parameters(config, method)
    _check_finite(config)
    for key in ("dtype", "out_dtype"):
        what = f"`{key}: {getattr(config, key)}` is no type of numbers that a model is written in"
        remedy = "Write bfloat16, float16, float32 or float64."
        with of_library(what, remedy):
            dtype = dtype_from_name(getattr(config, key))
        if dtype is not None and not dtype.is_floating_point:
            raise TransplantError(f"{what}. {remedy}")
    for model in models_in_order(config):
        if is_grown(model.model.path):
            raise TransplantError(
                f"{model} was grown: it has tables for the n-grams of its own tokenizer, which mean "
                "nothing in another. Merge the model that it was grown from, and grow the output."
            )
        found = read_config(model, trust_remote_code=options.trust_remote_code)
        if os.path.exists(model.model.path):
            tensors = check_weights(model.model.path, "The model")
            check_layers(found, tensors, model.model.path)
        if model.lora:
            _check_adapter(model, options)
    if isinstance(source, ModelReference):
        check_path(source.model, "The tokenizer source")


def _check_layers(
    config: MergeConfiguration, architecture: ModelArchitecture, options: MergeOptions
) -> None:
    """Refuse slices without sources, and layers that a model does not have."""
    modules = config.modules or {}
    slices = {"slices": config.slices or [], **{n: m.slices or [] for n, m in modules.items()}}
    for name, pieces in slices.items():
        module = architecture.modules.get(name) or next(iter(architecture.modules.values()))
        for i, piece in enumerate(pieces):
            where = f"slice {i}" if name == "slices" else f"slice {i} of module {name}"
            if not piece.sources:
                raise TransplantError(f"{where} has no `sources:`. Name a model and its layers.")
            for source in piece.sources:
                layers = module.architecture.num_layers(
                    read_config(source.model, trust_remote_code=options.trust_remote_code)
                )
                first, last = source.layer_range
                if not 0 <= first < last <= layers:
                    raise TransplantError(
                        f"{where} takes the layers {first} to {last} of {source.model}, which has "
                        f"{layers}. Write a `layer_range` within [0, {layers}]."
                    )


def _open_models(config: MergeConfiguration, options: MergeOptions) -> None:
    """Open the checkpoints as mergekit will: that downloads them, and merges LoRA adapters."""
    cache = LoaderCache()
    cache.setup(options=options)
    for model in models_in_order(config):
        held = set(os.listdir(options.lora_merge_cache)) if _is_there(options) else set()
        try:
            with of_library(
                f"The weights of {model} cannot be opened",
                "Copy or download the model again, whole, or name another.",
            ):
                folder = cache.get(model).index.base_path
        except TransplantError:
            # The next merge would take what is half written for a merged adapter.
            for name in (
                set(os.listdir(options.lora_merge_cache)) - held if _is_there(options) else ()
            ):
                shutil.rmtree(os.path.join(str(options.lora_merge_cache), name))
            raise
        check_weights(folder, "The model")


def _is_there(options: MergeOptions) -> bool:
    return bool(options.lora_merge_cache) and os.path.isdir(str(options.lora_merge_cache))


def _check_device(options: MergeOptions) -> None:
    name = options.device or "cpu"
    remedy = "Leave --cuda, --gpu-rich and --device out to merge on the processor."
    with of_library(f"The device {name!r} cannot be used", remedy):
        # `.item()` also rules out the device `meta`, whose tensors have no data.
        torch.ones(1, device=name).item()
    if options.multi_gpu and not has_accelerator():
        raise TransplantError(
            f"--multi-gpu needs GPUs that torch can use, and finds none. {remedy}"
        )


def has_accelerator() -> bool:
    """Whether torch can use a GPU, or another accelerator that mergekit would spread tasks over."""
    if hasattr(torch, "accelerator"):
        return torch.accelerator.is_available()
    return torch.cuda.is_available()


def _check_adapter(model: ModelReference, options: MergeOptions) -> None:
    assert model.lora is not None
    if not options.lora_merge_cache:
        raise TransplantError(
            f"{model} is a model with a LoRA adapter, which is merged into a cache dir first, and "
            "none was named. Add the option --lora-merge-cache DIRECTORY."
        )
    check_path(model.lora, "The LoRA adapter")
    if os.path.isdir(model.lora.path):
        read_json(
            os.path.join(model.lora.path, "adapter_config.json"),
            dict,
            "Name the directory of a LoRA adapter behind the `+`.",
        )


def _check_finite(config: MergeConfiguration) -> None:
    """Refuse parameters that are infinite or NaN: so would be every number that they weigh."""
    for where, settings in parameter_blocks(config):
        for name, value in (settings or {}).items():
            for number in _numbers(value):
                if not math.isfinite(number):
                    raise TransplantError(
                        f"{where}: {name} is {number}, which makes every number of the output "
                        "so. Write a finite number."
                    )


def _numbers(setting: Any) -> list[float]:
    if isinstance(setting, list):
        return [number for one in setting for number in _numbers(one)]
    if isinstance(setting, ConditionalParameter):
        return _numbers(setting.value)
    if isinstance(setting, str):
        # YAML reads 1e999 as text, which mergekit then converts to a number.
        try:
            return [float(setting)]
        except ValueError:
            return []
    return [float(setting)] if isinstance(setting, int | float) else []
