"""A merge planned as `mergekit-yaml` plans it, from tokenizers and headers, and not run.

The steps are those of `mergekit.merge.run_merge` up to the plan, so that an error in a config is
found by the same code and says the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import huggingface_hub
import peft
from huggingface_hub.errors import LocalEntryNotFoundError
from mergekit import merge
from mergekit.architecture import get_architecture_info
from mergekit.common import ModelReference, dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.io import LazyTensorLoader, ShardedTensorIndex
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from transformers import PreTrainedTokenizerBase

from mergekit_omp.models.headers import fetch_index, headers_only
from mergekit_omp.outside.faults import of_library
from mergekit_omp.transplant.config import TokenizerSource, models_in_order, tokenizer_source
from mergekit_omp.transplant.methods import find
from mergekit_omp.transplant.planning import TransplantPlan


@dataclass(frozen=True, eq=False)
class DryRun:
    """A planned merge. `tokenizer` is the output's, with the chat template that it will have."""

    config: MergeConfiguration
    transplant: TransplantPlan
    tokenizer: PreTrainedTokenizerBase


@contextlib.contextmanager
def dry_run(config: MergeConfiguration, options: MergeOptions) -> Iterator[DryRun | None]:
    """Plan a merge; None where its merge method is not one of ours.

    The headers of its checkpoints can be asked for within the context. Raises TransplantError
    where mergekit-yaml would refuse the config, with the same sentence for our methods.
    """
    with headers_only(), _loaders_without_weights():
        if find(config.merge_method) is None:
            with of_library("mergekit refuses this merge", "Correct the config."):
                _plan_mergekits_own(config, options)
            yield None
        else:
            yield _plan(config, options)


def _plan_mergekits_own(config: MergeConfiguration, options: MergeOptions) -> None:
    architecture = get_architecture_info(config, options)
    LoaderCache().setup(options=options)
    out_config = merge._model_out_config(
        config, architecture, trust_remote_code=options.trust_remote_code
    )
    _open_models(config, options)
    MergePlanner(config, architecture, options=options, out_model_config=out_config)._plan()
    for dtype in (config.dtype, config.out_dtype):
        dtype_from_name(dtype)


def _plan(config: MergeConfiguration, options: MergeOptions) -> DryRun:
    architecture = get_architecture_info(config, options)
    LoaderCache().setup(options=options)
    out_config = merge._model_out_config(
        config, architecture, trust_remote_code=options.trust_remote_code
    )
    _open_models(config, options)
    _open_donor(tokenizer_source(config), options)
    planner = MergePlanner(config, architecture, options=options, out_model_config=out_config)
    planner._plan()
    transplant: TransplantPlan = planner._transplant
    return DryRun(config, transplant, transplant.tokenizer)


@contextlib.contextmanager
def _loaders_without_weights() -> Iterator[None]:
    """Leave mergekit's cache of checkpoints as it was: here it may hold stand-ins."""
    held = dict(LoaderCache().loaders)
    try:
        yield
    finally:
        LoaderCache.loaders.clear()
        LoaderCache.loaders.update(held)


def _open_models(config: MergeConfiguration, options: MergeOptions) -> None:
    """Have mergekit find every checkpoint's index, without merging a LoRA or fetching weights."""
    cache = LoaderCache()
    for model in models_in_order(config):
        if _has_no_files_yet(model):
            cache.loaders[model] = _loader(model, options)
        cache.get(model)


def _open_donor(source: TokenizerSource, options: MergeOptions) -> None:
    if isinstance(source, ModelReference) and _has_no_files_yet(source):
        # A donor without weights is for planning to judge: some methods need none.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            LoaderCache().loaders[source] = _loader(source, options)


def _has_no_files_yet(model: ModelReference) -> bool:
    return bool(model.lora) or not os.path.exists(model.model.path)


def _loader(model: ModelReference, options: MergeOptions) -> LazyTensorLoader:
    if model.lora:
        if not options.lora_merge_cache:
            model.merged(cache_dir=None)
        with of_library(
            f"The LoRA adapter {model.lora} cannot be read", "Name the directory of an adapter."
        ):
            peft.PeftConfig.from_pretrained(model.lora.path, revision=model.lora.revision)
    # A merged LoRA leaves the shapes of its model as they are.
    return LazyTensorLoader(_index(model, options), lazy_unpickle=options.lazy_unpickle)


def _index(model: ModelReference, options: MergeOptions) -> ShardedTensorIndex:
    """From the model's directory, from what was downloaded of it, or from the headers online."""
    path, revision = model.model.path, model.model.revision
    if os.path.exists(path):
        return ShardedTensorIndex.from_disk(path)
    with contextlib.suppress(LocalEntryNotFoundError):
        folder = huggingface_hub.snapshot_download(
            path, revision=revision, cache_dir=options.transformers_cache, local_files_only=True
        )
        # A folder may hold a config alone, which was fetched a moment ago.
        if any(name.endswith((".safetensors", ".bin")) for name in os.listdir(folder)):
            return ShardedTensorIndex.from_disk(folder)
    with of_library(
        f"The headers of {path} cannot be fetched", "Check the name, or download the model first."
    ):
        return fetch_index(path, revision)
