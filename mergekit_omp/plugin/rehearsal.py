"""Plans merges as `mergekit-yaml` does, without running them.

`dry_run` plans a merge that has not run yet, without downloading weights; `replan` plans one that
has run. Both take the steps of `mergekit.merge.run_merge` up to the plan, so that an error in a
config is found by the same code, and reported in the same sentence.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import huggingface_hub
import peft
from huggingface_hub.errors import LocalEntryNotFoundError
from jaxtyping import Shaped
from mergekit.common import ModelReference, dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.io import LazyTensorLoader, ShardedTensorIndex
from mergekit.io.tasks import LoaderCache, LoadTensor
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mergekit_omp.models.headers import fetch_index, headers_only
from mergekit_omp.outside.faults import of_library
from mergekit_omp.plugin.hooks import let_go
from mergekit_omp.plugin.planners import make_planner, only_errors_are_logged
from mergekit_omp.transplant.config import TokenizerSource, models_in_order, tokenizer_source
from mergekit_omp.transplant.methods import find
from mergekit_omp.transplant.planning import TransplantPlan
from mergekit_omp.transplant.row_plan import RowPlan, vocabulary_first
from mergekit_omp.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class DryRun:
    """A planned merge. `tokenizer` is the output's, with its chat template."""

    config: MergeConfiguration
    transplant: TransplantPlan
    tokenizer: PreTrainedTokenizerBase


@contextlib.contextmanager
def dry_run(config: MergeConfiguration, options: MergeOptions) -> Iterator[DryRun | None]:
    """Plan a merge; gives None where its merge method is not one of ours.

    Headers of its checkpoints can be read within the context. Raises TransplantError where
    mergekit-yaml would refuse the config.
    """
    with headers_only(), _loaders_without_weights():
        if find(config.merge_method) is None:
            with of_library("mergekit refuses this merge", "Correct the config."):
                _plan_mergekits_own(config, options)
            yield None
        else:
            yield _plan(config, options)


def _plan_mergekits_own(config: MergeConfiguration, options: MergeOptions) -> None:
    make_planner(config, options, lambda: _open_models(config, options))._plan()
    for dtype in (config.dtype, config.out_dtype):
        dtype_from_name(dtype)


def _plan(config: MergeConfiguration, options: MergeOptions) -> DryRun:
    def opened() -> None:
        _open_models(config, options)
        _open_donor(tokenizer_source(config), options)

    plan = _planned(make_planner(config, options, opened))
    return DryRun(config, plan, plan.tokenizer)


def _planned(planner: MergePlanner) -> TransplantPlan:
    """Have the planner plan, and take the plan from it."""
    planner._plan()
    plan: TransplantPlan = planner._transplant.plan
    let_go(planner)
    return plan


@contextlib.contextmanager
def _loaders_without_weights() -> Iterator[None]:
    """Restore mergekit's cache of loaders afterwards: those of a dry run may have no weights."""
    held = dict(LoaderCache().loaders)
    try:
        yield
    finally:
        LoaderCache.loaders.clear()
        LoaderCache.loaders.update(held)


def _open_models(config: MergeConfiguration, options: MergeOptions) -> None:
    """Put loaders into mergekit's cache, without merging adapters or downloading weights."""
    cache = LoaderCache()
    for model in models_in_order(config):
        if _has_no_files_yet(model):
            cache.loaders[model] = _loader(model, options)
        cache.get(model)


def _open_donor(source: TokenizerSource, options: MergeOptions) -> None:
    if isinstance(source, ModelReference) and _has_no_files_yet(source):
        # Whether a donor without weights will do depends on the method, which planning checks.
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
    # Merging a LoRA does not change the shapes of the model.
    return LazyTensorLoader(_index(model, options), lazy_unpickle=options.lazy_unpickle)


def _index(model: ModelReference, options: MergeOptions) -> ShardedTensorIndex:
    """The index of the model's directory, of its downloaded files, or of its headers on the Hub."""
    path, revision = model.model.path, model.model.revision
    if os.path.exists(path):
        return ShardedTensorIndex.from_disk(path)
    with contextlib.suppress(LocalEntryNotFoundError):
        folder = huggingface_hub.snapshot_download(
            path, revision=revision, cache_dir=options.transformers_cache, local_files_only=True
        )
        # The folder may hold only a config, downloaded a moment ago.
        if any(name.endswith((".safetensors", ".bin")) for name in os.listdir(folder)):
            return ShardedTensorIndex.from_disk(folder)
    with of_library(
        f"The headers of {path} cannot be fetched", "Check the name, or download the model first."
    ):
        return fetch_index(path, revision)


@dataclass(frozen=True, eq=False)
class PlannedRows:
    """One vocabulary tensor of one model of the merge, with its planned rows."""

    plan: RowPlan
    output_name: str
    """The output's name for the tensor."""
    vocabulary: Vocabulary
    """The model's vocabulary."""
    load: LoadTensor
    """Loads the model's own tensor."""
    axis: int
    """The tensor's dimension with one entry per token."""

    def base(self) -> Shaped[Tensor, "base_rows dim"]:
        """The model's own rows, read from disk."""
        matrix = self.load.execute()
        assert matrix is not None
        return vocabulary_first(matrix, self.axis)


@dataclass(frozen=True, eq=False)
class Replanned:
    """The plan of a merge that has run."""

    output: Vocabulary
    tensors: dict[tuple[str, str], PlannedRows]
    """By (model, tensor), as the record names them."""
    donors: dict[str, Vocabulary]
    """By the donor's name in the record."""


def replan(config: MergeConfiguration, options: MergeOptions) -> Replanned:
    """Plan a merge that has run, to find out again which rows and anchors it used.

    Reads tokenizers and vocabulary tensors of the models, and writes nothing. Raises
    TransplantError where the models are no longer there.
    """
    # The record has the warnings already.
    with only_errors_are_logged():
        transplant = _planned(make_planner(config, options))
    shown, vocabularies = transplant.request.shown, transplant.inputs.vocabularies
    tensors = {}
    for tensor in transplant.tensors:
        for of_model in tensor.models:
            model = of_model.plan.model
            own = tensor.planned.models[model]
            tensors[shown(str(model)), own.weight.name] = PlannedRows(
                plan=of_model.plan,
                output_name=tensor.planned.weight.name,
                vocabulary=vocabularies.vocabulary(model),
                load=own.load_task(),
                axis=tensor.planned.permuted.vocabulary_axis,
            )
    donors = {
        served.donor.model: vocabularies.vocabulary(served.donor.model)
        for rows in tensors.values()
        for served in rows.plan.approximated
        if served.donor is not None
    }
    return Replanned(transplant.output, tensors, {shown(str(m)): v for m, v in donors.items()})
