"""Reads a model's config.json, and refuses one that a merge could not be planned from."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection
from pathlib import Path

from mergekit.common import ModelPath, ModelReference
from transformers import PretrainedConfig

from mergekit_omp.errors import TransplantError
from mergekit_omp.models.tokenizer_files import looks_like_a_path
from mergekit_omp.outside.faults import of_library
from mergekit_omp.outside.files import read_json

_MOST = {
    "num_hidden_layers": 1 << 12,
    "num_attention_heads": 1 << 16,
    "hidden_size": 1 << 20,
    "vocab_size": 1 << 24,
}
"""Upper bounds of sizes. A damaged config may ask for billions of layers, each of which is
planned."""

GROWN = "over_encoded"
"""The type of models that have tables of n-grams in front (`mergekit_omp.growth`)."""


def check_path(path: ModelPath, what: str) -> None:
    """Refuse a path that does not exist, and suggest a directory with a similar name."""
    name = path.path
    if os.path.exists(name) or not looks_like_a_path(name):
        return
    said = f"{what} {name} is not there: no such directory."
    at_home = Path(os.path.expanduser(name))
    if at_home.is_dir():
        raise TransplantError(f"{said} A config's ~ is no home directory: write {at_home}.")
    parent = at_home.parent
    beside = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
    marked = [other for other in beside if re.match(rf"{re.escape(at_home.name)}[+@]", other)]
    if marked:
        raise TransplantError(
            f"{said} There is {os.path.join(os.path.dirname(name), marked[0])}, but in the name of a "
            "model an adapter follows a +, and a revision an @: give the directory another name."
        )
    close = difflib.get_close_matches(at_home.name, beside, n=1)
    raise TransplantError(
        said
        + (f" Did you mean {os.path.join(os.path.dirname(name), close[0])}?" if close else "")
        + " Check the path; a relative one begins where the command runs."
    )


def check_layers(config: PretrainedConfig, tensors: Collection[str], name: str) -> None:
    """Refuse a config with more layers than the checkpoint has `tensors`: each would be planned."""
    layers = getattr(config.get_text_config(), "num_hidden_layers", None) or 0
    if layers > len(tensors):
        raise TransplantError(
            f"The config.json of {name} gives num_hidden_layers as {layers}, and its weights hold "
            f"{len(tensors)} tensors. Put the model's own config.json there, or name another model."
        )


def is_grown(folder: str | os.PathLike[str]) -> bool:
    """Whether a model on disk is one that `mergekit-omp grow` wrote, by its config.json alone."""
    file = Path(folder) / "config.json"
    return file.is_file() and read_json(file, dict).get("model_type") == GROWN


def read_config(model: ModelReference, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """A model's config.

    TransplantError, naming the file, where its class or sizes are missing or absurd.
    """
    path = model.model.path
    what = f"The config.json of {path}"
    remedy = (
        "Put the model's own config.json there, or name another model."
        if os.path.isdir(path)
        else "Check the name, or download the model first."
    )
    check_path(model.model, "The model")
    if os.path.isdir(path):
        file = Path(path) / "config.json"
        if not file.is_file():
            raise TransplantError(f"{path} has no config.json. {remedy}")
        read_json(file, dict, remedy)
    with of_library(f"{what} cannot be read", remedy):
        config = model.config(trust_remote_code=trust_remote_code)
    named = config.architectures
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise TransplantError(
            f"{what} names no single class of models under `architectures`; found {named!r}. "
            f"{remedy}"
        )
    with of_library(f"{what} has no sizes of a language model", remedy):
        text = config.get_text_config()
    if not isinstance(text, PretrainedConfig):
        raise TransplantError(
            f"{what} gives the config of its text model as {str(text)[:60]}. {remedy}"
        )
    for key, most in _MOST.items():
        size = getattr(text, key, None)
        if size is not None and not (isinstance(size, int) and 0 <= size < most):
            raise TransplantError(f"{what} gives {key} as {size!r}. {remedy}")
    return config
