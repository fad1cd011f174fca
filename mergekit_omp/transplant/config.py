"""Reading a merge config: the order of its models, its tokenizer source, its parameters."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import pydantic
from mergekit.common import ModelReference
from mergekit.config import ConditionalParameter, MergeConfiguration

from mergekit_omp.errors import TransplantError
from mergekit_omp.record.shown_names import ShownNames
from mergekit_omp.transplant.methods import MATCH_DONOR_ROWS, TransplantMethod

TokenizerSource: TypeAlias = ModelReference | Literal["union", "base"]


def models_in_order(config: MergeConfiguration) -> list[ModelReference]:
    """The models of a merge in the order that the config names them; `base_model` last if new."""
    listed = [entry.model for entry in config.models or ()]
    for piece in config.slices or ():
        listed += [source.model for source in piece.sources]
    for module in (config.modules or {}).values():
        listed += [entry.model for entry in module.models or ()]
        for piece in module.slices or ():
            listed += [source.model for source in piece.sources]
    if config.base_model:
        listed.append(config.base_model)
    return list(dict.fromkeys(listed))


def shown_models(models: Iterable[ModelReference], config: MergeConfiguration) -> ShownNames:
    """How models, their adapters and hypernetworks are named where others read."""
    references = list(models)
    adapters = [model.lora.path for model in references if model.lora]
    networks = _texts([(p or {}).get("hypernetwork") for _, p in parameter_blocks(config)])
    return ShownNames([*(model.model.path for model in references), *adapters, *networks])


def _texts(setting: Any) -> list[str]:
    """The texts in the setting of a parameter, which may depend on the tensor."""
    if isinstance(setting, list):
        return [text for entry in setting for text in _texts(entry)]
    if isinstance(setting, ConditionalParameter):
        return _texts(setting.value)
    return [setting] if isinstance(setting, str) else []


def tokenizer_source(config: MergeConfiguration) -> TokenizerSource:
    """Where the output's tokenizer comes from. TransplantError where the config does not say."""
    source = config.tokenizer.source if config.tokenizer else config.tokenizer_source
    if source is None:
        raise TransplantError(
            f"merge_method {config.merge_method!r} gives the output another tokenizer, but the "
            "config names none. Add `tokenizer_source:` with the model whose tokenizer the "
            "output is to have (or `union`, or `base`)."
        )
    if source == "base" and config.base_model is None:
        raise TransplantError(
            "`tokenizer_source: base` needs a `base_model:`, and the config has none."
        )
    return source


def check_modules(config: MergeConfiguration, modules: Collection[str]) -> None:
    """Refuse a module that the architecture does not have; mergekit would raise a KeyError."""
    for name in config.modules or ():
        if name not in modules:
            close = difflib.get_close_matches(name, modules, n=1)
            raise TransplantError(
                f"`modules:` names {name!r}, but the models of this merge have no such module."
                + (f" Did you mean {close[0]!r}?" if close else "")
                + f" They have: {', '.join(modules)}."
            )


def check_parameters(config: MergeConfiguration, method: TransplantMethod) -> None:
    """Refuse a parameter that neither the approximation nor the inner method knows.

    mergekit drops unknown parameters without a word; a misspelt one would do nothing.
    """
    known = [parameter.name for parameter in method.spec.parameters]
    for where, settings in parameter_blocks(config):
        for name in settings or ():
            if name in known:
                continue
            close = [one for one in known if one.lower() == name.lower()]
            close = close or difflib.get_close_matches(name.lower(), known, n=1)
            raise TransplantError(
                f"{where}: {method.spec.name!r} has no parameter {name!r}."
                + (f" Did you mean {close[0]!r}?" if close else "")
                + (f" It has: {', '.join(known)}." if known else " It has none.")
            )


def check_filters(config: MergeConfiguration, tensors: Collection[str]) -> list[str]:
    """Refuse a misspelt `filter:`, which would match no tensor; warnings of others that do not."""
    words = {word for name in tensors for word in (name, *name.split("."))} | _USUAL
    warnings = []
    for where, settings in parameter_blocks(config):
        for name, setting in (settings or {}).items():
            for part in setting if isinstance(setting, list) else [setting]:
                sought = getattr(part, "filter", None)
                if sought in (None, "*") or any(sought in tensor for tensor in tensors):
                    continue
                said = f"{where}: {name} has a value for `filter: {sought}`, which is in the name "
                said += "of no tensor of this merge."
                close = difflib.get_close_matches(sought, sorted(words - {sought}), n=1, cutoff=0.7)
                if close and sought not in words:
                    raise TransplantError(f"{said} Did you mean {close[0]}?")
                warnings.append(said)
    return warnings


_USUAL = {"lm_head", "embed_tokens", "self_attn", "mlp", "input_layernorm", "norm", "layers"}
"""Parts of names that a model may lack, as a tied one lacks a head, without a mistake."""


def parameter_blocks(
    config: MergeConfiguration,
) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Every block of `parameters:` in a config, and where it is."""
    yield "parameters", config.parameters
    for entry in config.models or ():
        yield f"parameters of the model {entry.model}", entry.parameters
    for i, piece in enumerate(config.slices or ()):
        yield f"parameters of slice {i}", piece.parameters
        for source in piece.sources:
            yield f"parameters of {source.model} in slice {i}", source.parameters
    for name, module in (config.modules or {}).items():
        yield f"parameters of module {name}", module.parameters
        for entry in module.models or ():
            yield f"parameters of {entry.model} in module {name}", entry.parameters
        for i, piece in enumerate(module.slices or ()):
            yield f"parameters of slice {i} of module {name}", piece.parameters
            for source in piece.sources:
                yield f"parameters of {source.model} in slice {i} of {name}", source.parameters


def match_donor_rows(config: MergeConfiguration) -> bool:
    """The one setting that is for the whole output, and so for no single model or tensor."""
    name = MATCH_DONOR_ROWS.name
    for where, settings in parameter_blocks(config):
        if where != "parameters" and name in (settings or {}):
            raise TransplantError(
                f"{where}: {name} is for the whole output. Move it to the `parameters:` at the "
                "top of the config."
            )
    value = (config.parameters or {}).get(name, False)
    return bool(MATCH_DONOR_ROWS.validate(value))


@contextlib.contextmanager
def parameter_errors(method: str, tensor: str) -> Iterator[None]:
    """Say in one sentence which parameter of which method is bad, and for which tensor."""
    try:
        yield
    except TransplantError as error:
        raise TransplantError(f"merge_method {method!r}, tensor {tensor}: {error}") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise TransplantError(
            f"merge_method {method!r}, tensor {tensor}: {first['msg']}; found {first['input']!r}."
        ) from error
