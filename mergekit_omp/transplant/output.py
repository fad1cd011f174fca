"""Refuses output paths where something of the user's would be overwritten."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

from mergekit.common import ModelReference

from mergekit_omp.errors import TransplantError
from mergekit_omp.outside.counts import counted
from mergekit_omp.outside.files import read_json
from mergekit_omp.transplant.staging import is_interrupted

LOG = logging.getLogger(__name__)

_WEIGHTS = (".safetensors", ".bin", ".pth", ".gguf")


def check_out_path(out_path: str, inputs: Iterable[ModelReference]) -> None:
    """Raise TransplantError for a file, one of `inputs`, an adapter or another model.

    The output of an earlier merge may be overwritten, as with mergekit; that is logged.
    """
    if os.path.exists(out_path) and not os.path.isdir(out_path):
        raise TransplantError(
            f"The output path {out_path!r} is a file. Name a directory that does not exist yet."
        )
    for model in inputs:
        for path in (model.model.path, model.lora.path if model.lora else None):
            if (
                path
                and os.path.isdir(path)
                and os.path.realpath(path) == os.path.realpath(out_path)
            ):
                raise TransplantError(
                    f"The output path {out_path!r} is the model {model} itself, which the merge "
                    "reads. Name another directory."
                )
    if not os.path.isdir(out_path):
        return
    held = sorted(os.listdir(out_path))
    weights = [name for name in held if name.endswith(_WEIGHTS)]
    if "adapter_config.json" in held:
        raise TransplantError(
            f"The output path {out_path!r} holds an adapter (adapter_config.json), which readers "
            "would put on top of the new model. Name an empty directory, or move it away."
        )
    if not weights and "config.json" not in held:
        return
    found = f"a {_architecture(out_path)} with {counted(len(weights), 'weight file')}"
    if is_interrupted(out_path):
        LOG.warning("%s holds what is left of a merge that did not end.", out_path)
        return
    if "mergekit_config.yml" in held or "tokenizer_transplant.json" in held:
        LOG.warning("%s holds an earlier merge (%s), which is written over.", out_path, found)
        return
    raise TransplantError(
        f"The output path {out_path!r} already holds another model: {found}. Name an empty "
        "directory, or move that model away."
    )


def _architecture(path: str) -> str:
    try:
        config = read_json(os.path.join(path, "config.json"), dict)
    except TransplantError:
        return "model"
    named = config.get("architectures")
    return ", ".join(map(str, named)) if isinstance(named, list) and named else "model"
