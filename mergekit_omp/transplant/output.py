"""What the output directory must say beside the tensors: token ids, and that nothing is lost.

Ids of roles are those of the output's tokenizer; every other setting stays the base's.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import Any

import transformers
from mergekit.common import ModelReference
from mergekit.io.tasks import LoaderCache

from mergekit_omp.errors import TransplantError

LOG = logging.getLogger(__name__)

ALWAYS = ("bos", "eos", "pad")
WHERE_KNOWN = ("unk", "sep", "cls", "mask")
_WEIGHTS = (".safetensors", ".bin", ".pth", ".gguf")
_GENERATION_IDS = (
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
)


def check_out_path(out_path: str, inputs: list[ModelReference]) -> None:
    """Refuse an output path that would lose something of the user's.

    An earlier merge's output is written over, as mergekit does; any other model is not.
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
    if not weights and "config.json" not in held:
        return
    found = f"a {_architecture(out_path)} with {len(weights)} weight file(s)"
    if "mergekit_config.yml" in held or "tokenizer_transplant.json" in held:
        LOG.warning("%s holds an earlier merge (%s), which is written over.", out_path, found)
        return
    raise TransplantError(
        f"The output path {out_path!r} already holds another model: {found}. Name an empty "
        "directory, or move that model away."
    )


def _architecture(path: str) -> str:
    try:
        with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
            return ", ".join(json.load(file).get("architectures") or ["model"])
    except (OSError, ValueError):
        return "model"


def set_token_ids(
    config: transformers.PretrainedConfig,
    tokenizer: transformers.PreTrainedTokenizerBase,
    moved: Callable[[int], int | None],
) -> list[str]:
    """Set the ids of roles in a config and its text config; move the ids of other tokens.

    `moved` tells where a token id of the base is in the output, or None. Returns warnings, one
    for each key whose token the output does not have.
    """
    warnings = []
    text = config.get_text_config()
    for level in [config] if text is config else [config, text]:
        for role in ALWAYS + WHERE_KNOWN:
            key = f"{role}_token_id"
            value = getattr(tokenizer, key, None)
            if role in ALWAYS or value is not None or hasattr(level, key):
                if level is config and text is not config and not hasattr(level, key):
                    continue
                setattr(level, key, value)
        known = {f"{role}_token_id" for role in ALWAYS + WHERE_KNOWN}
        for key, value in list(vars(level).items()):
            if not key.endswith(("_token_id", "_token_index")) or key in known:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                continue
            new = moved(value)
            if new is None:
                warnings.append(
                    f"config key {key} is the base's token id {value}, which the output's "
                    "tokenizer does not have; it is left as it is and must be set by hand"
                )
            else:
                setattr(level, key, new)
    return warnings


def base_file(model: ModelReference, name: str) -> dict[str, Any]:
    """The content of a JSON file beside a model's weights; nothing where there is no such file."""
    path = os.path.join(LoaderCache().get(model).index.base_path, name)
    if not os.path.exists(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except ValueError as error:
        raise TransplantError(
            f"{name} of {model} is not JSON ({error}). Mend it, or remove it."
        ) from error
    if not isinstance(content, dict):
        raise TransplantError(
            f"{name} of {model} must hold an object, and holds {json.dumps(content)[:40]}. Mend "
            "it, or remove it."
        )
    return content


def generation_config(
    base: ModelReference,
    tokenizer: transformers.PreTrainedTokenizerBase,
    moved: Callable[[int], int | None],
    repeated: list[int],
) -> dict[str, Any]:
    """The base's generation settings, with the token ids of the output's tokenizer.

    `repeated` are control tokens that hold the same row as a more telling one (pad beside eos,
    where the base has one token for both): as likely as that one, they must not be generated
    in its place.
    """
    settings = base_file(base, "generation_config.json") or {"_from_model_config": True}
    for role in ALWAYS:
        value = getattr(tokenizer, f"{role}_token_id", None)
        if value is None:
            settings.pop(f"{role}_token_id", None)
        else:
            settings[f"{role}_token_id"] = value
    for key in _GENERATION_IDS:
        old = settings.get(key)
        if isinstance(old, int):
            new = moved(old)
            settings.pop(key)
            if new is not None:
                settings[key] = new
        elif isinstance(old, list):
            settings[key] = [new for new in map(moved, old) if new is not None]
    if repeated:
        settings["suppress_tokens"] = sorted({*(settings.get("suppress_tokens") or ()), *repeated})
    if settings.get("bad_words_ids"):
        words = [[moved(token) for token in word] for word in settings["bad_words_ids"]]
        settings["bad_words_ids"] = [word for word in words if None not in word]
        if not settings["bad_words_ids"]:
            settings.pop("bad_words_ids")
    settings["transformers_version"] = transformers.__version__
    return settings
