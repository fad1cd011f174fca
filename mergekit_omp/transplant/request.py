"""The first step of a plan: what a config asks for, checked before any tokenizer is loaded."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import transformers
from mergekit.architecture import ConfiguredModelArchitecture, ModelArchitecture
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_omp.models.completeness import complete_architecture
from mergekit_omp.models.shapes import check_shapes
from mergekit_omp.record.shown_names import ShownNames
from mergekit_omp.transplant.config import (
    TokenizerSource,
    check_modules,
    check_parameters,
    models_in_order,
    shown_models,
    tokenizer_source,
)
from mergekit_omp.transplant.layers import set_layers
from mergekit_omp.transplant.methods import TransplantMethod
from mergekit_omp.transplant.vocabulary_tensors import check_models


@dataclass(frozen=True, eq=False)
class MergeRequest:
    """One merge, as its config asks for it."""

    config: MergeConfiguration
    method: TransplantMethod
    options: MergeOptions
    architecture: ModelArchitecture
    """By what the merge is planned: it covers every tensor of every model."""
    out_config: transformers.PretrainedConfig
    """mergekit's config for the output, its layers complete; rows and token ids are the base's."""
    models: tuple[ModelReference, ...]
    """In the order in which the config names them."""
    sources: tuple[ModelReference, ...]
    """The base, the donor and the other models, each once."""
    base: ModelReference
    source: TokenizerSource
    shown: ShownNames
    """How models are named where others read."""
    warnings: tuple[str, ...]

    def base_config(self) -> transformers.PretrainedConfig:
        """A fresh copy of the base's config."""
        return self.base.config(trust_remote_code=self.options.trust_remote_code)


def read_request(
    config: MergeConfiguration,
    method: TransplantMethod,
    options: MergeOptions,
    architecture: ModelArchitecture,
    out_config: transformers.PretrainedConfig,
) -> MergeRequest:
    """Read a config; `out_config` stays as it is.

    Raises TransplantError for models that do not fit together, or parameters that no method has.
    """
    models = models_in_order(config)
    base = config.base_model or models[0]
    complete = complete_architecture(
        base,
        models,
        architecture,
        options,
        dtype=config.dtype,
        modules_named=bool(config.modules),
    )
    check_shapes(base, trust_remote_code=options.trust_remote_code)
    out_config = copy.deepcopy(out_config)
    set_layers(out_config, base.config(options.trust_remote_code), config)
    source = tokenizer_source(config)
    check_modules(config, complete.architecture.modules)
    check_parameters(config, method)
    configured = ConfiguredModelArchitecture(info=complete.architecture, config=out_config)
    check_models(config, models, configured, options)
    donors = [source] if isinstance(source, ModelReference) else []
    sources = tuple(dict.fromkeys([base, *donors, *models]))
    return MergeRequest(
        config=config,
        method=method,
        options=options,
        architecture=complete.architecture,
        out_config=out_config,
        models=tuple(models),
        sources=sources,
        base=base,
        source=source,
        shown=shown_models(sources, config),
        warnings=complete.warnings,
    )
