"""Makes transformers 4.57 and 5 read the same model and tokenizer from an output's files.

transformers 5 has new names for tokenizer classes, and keeps the settings of rotary position
embedding in one key, `rope_parameters`; the keys that 4.57 reads are written beside it. They are
only added where the installed release still reads the same config.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer
from tokenizers.models import BPE

TOKENIZER_CLASS = "PreTrainedTokenizerFast"
"""A class that both releases have, and that loads tokenizer.json unchanged."""
TOKENIZER_MODULE = "output_tokenizer.py"
TOKENIZER_CODE = '''"""The tokenizer of tokenizer.json, whatever family the model is of."""

from transformers import PreTrainedTokenizerFast


class OutputTokenizer(PreTrainedTokenizerFast):
    """Loads tokenizer.json as it is."""
'''
_AUTO_MAP = {"AutoTokenizer": [None, "output_tokenizer.OutputTokenizer"]}
_OF_THE_PROCESS = ("backend", "is_local", "local_files_only", "name_or_path", "add_prefix_space")
"""Settings that depend on how a tokenizer was loaded, and do not belong into the output."""

_ROPE = "rope_parameters"
_OLDER_ROPE = (
    *("rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor"),
    *("rotary_emb_base", "rotary_pct", "global_rope_theta", "local_rope_theta"),
)
_MOVED_KEYS = ("rope_theta", "partial_rotary_factor")
_NAMES_OF_GPT_NEOX = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
_OLDER_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
_BY_LAYER_TYPE = {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"}


@dataclass(frozen=True)
class TokenizerFiles:
    """What is added to the saved tokenizer, so that both releases load it unchanged."""

    settings: dict[str, Any] | None
    """Added to tokenizer_config.json; None for a tokenizer with code of its own, which is left
    alone."""
    code: dict[str, str] = field(default_factory=dict)
    """Files of code by name."""
    warnings: tuple[str, ...] = ()


def tokenizer_files(
    tokenizer: transformers.PreTrainedTokenizerBase, model_type: str
) -> TokenizerFiles:
    """Find out, by trying, what makes `AutoTokenizer` load the output's tokenizer unchanged.

    For some families (Qwen2) transformers 5 loads the family's own class whatever the files say,
    and with it another pre-tokenizer. It only respects a class that is named in `auto_map`: without
    `trust_remote_code` it then loads tokenizer.json as it is, and with it the class that is named.
    """
    settings = tokenizer.init_kwargs
    if settings.get("auto_map") == _AUTO_MAP:
        del settings["auto_map"]
    if "auto_map" in settings or getattr(tokenizer, "backend_tokenizer", None) is None:
        return TokenizerFiles(None)
    plain = TokenizerFiles(_settings(tokenizer))
    if _plain_class_is_taken(plain, model_type):
        return plain
    mapped = TokenizerFiles(
        {**(plain.settings or {}), "auto_map": _AUTO_MAP}, {TOKENIZER_MODULE: TOKENIZER_CODE}
    )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        Path(folder, "config.json").write_text(json.dumps({"model_type": model_type}))
        for files in (plain, mapped):
            write_tokenizer_files(Path(folder), files)
            if _read_as_it_is(Path(folder), tokenizer, trust=bool(files.code)):
                return files
    return TokenizerFiles(
        plain.settings,
        warnings=(
            f"AutoTokenizer of transformers {transformers.__version__} makes another tokenizer of "
            f"the output's tokenizer.json, as the model is a {model_type}. Load it with "
            "PreTrainedTokenizerFast.from_pretrained instead.",
        ),
    )


def write_tokenizer_files(folder: Path, files: TokenizerFiles) -> None:
    """Finish the tokenizer that `save_pretrained` wrote into `folder`."""
    if files.settings is None:
        return
    for name, code in files.code.items():
        (folder / name).write_text(code, encoding="utf-8")
    path = folder / "tokenizer_config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    for key in (*_OF_THE_PROCESS, "auto_map"):
        written.pop(key, None)
    # transformers 4.57 takes a list under the new name for a dictionary, and fails.
    if isinstance(written.get("extra_special_tokens"), list):
        written["additional_special_tokens"] = written.pop("extra_special_tokens")
    named = written.get("model_specific_special_tokens")
    if named:
        written["extra_special_tokens"] = named
    _write(path, {**written, **files.settings})


def write_older_config(
    folder: Path, config: transformers.PretrainedConfig, base: Mapping[str, Any]
) -> None:
    """Add to the config.json in `folder` the keys that transformers 4.57 reads.

    `config` is the one that was saved there, and `base` the content of the base's config.json.
    """
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    older = older_config(written, base)
    if older != written and _same(type(config), written, older):
        _write(path, older)


def older_config(config: dict[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the keys that transformers 4.57 reads rotary position embedding from.

    They are those of the base's own file, or what `rope_parameters` say.
    """
    result = {}
    for key, value in config.items():
        inner = base.get(key)
        result[key] = (
            older_config(value, inner if isinstance(inner, dict) else {})
            if isinstance(value, dict) and key != _ROPE
            else value
        )
    rope = config.get(_ROPE)
    if isinstance(rope, dict):
        kept = {key: base[key] for key in _OLDER_ROPE if key in base}
        older = _from_parameters(rope)
        if str(config.get("model_type")).startswith("gpt_neox"):
            older |= {new: older[key] for key, new in _NAMES_OF_GPT_NEOX.items() if key in older}
        result = {**older, **kept, **result}
    return result


def _from_parameters(rope: dict[str, Any]) -> dict[str, Any]:
    by_type = {key: value for key, value in rope.items() if isinstance(value, dict)}
    if by_type:
        older: dict[str, Any] = {}
        for layer_type, name in _BY_LAYER_TYPE.items():
            held = _from_parameters(by_type.get(layer_type, {}))
            if "rope_theta" in held:
                older[name] = held["rope_theta"]
            if layer_type == "full_attention" and "rope_scaling" in held:
                older["rope_scaling"] = held["rope_scaling"]
        return older
    older = {key: rope[key] for key in _MOVED_KEYS if key in rope}
    scaling = {key: value for key, value in rope.items() if key not in _MOVED_KEYS}
    kind = scaling.get("rope_type", "default")
    if kind in _OLDER_TYPES and (kind != "default" or len(scaling) > 1):
        older["rope_scaling"] = scaling
    return older


def _settings(tokenizer: transformers.PreTrainedTokenizerBase) -> dict[str, Any]:
    """Settings that the releases would otherwise take from the defaults of different classes."""
    settings = {
        "tokenizer_class": TOKENIZER_CLASS,
        "model_input_names": list(tokenizer.model_input_names),
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "clean_up_tokenization_spaces": bool(tokenizer.clean_up_tokenization_spaces),
    }
    # A sequence of pre-tokenizers has no such attribute, and none is needed.
    pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    space = getattr(pre_tokenizer, "add_prefix_space", None)
    if space is not None:
        settings["add_prefix_space"] = space
    return settings


def _plain_class_is_taken(files: TokenizerFiles, model_type: str) -> bool:
    """Whether `AutoTokenizer` loads a tiny tokenizer of this model type as `TOKENIZER_CLASS`."""
    tiny = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE({"a": 0}, [])))
    with tempfile.TemporaryDirectory() as folder:
        tiny.save_pretrained(folder)
        Path(folder, "config.json").write_text(json.dumps({"model_type": model_type}))
        write_tokenizer_files(Path(folder), files)
        loaded = transformers.AutoTokenizer.from_pretrained(folder)
    return type(loaded) is transformers.PreTrainedTokenizerFast


def _read_as_it_is(
    folder: Path, tokenizer: transformers.PreTrainedTokenizerBase, *, trust: bool
) -> bool:
    """Whether `AutoTokenizer` loads `tokenizer` from `folder`; `trust`: with remote code, too."""
    expected = tokenizer.backend_tokenizer.to_str()
    for trusted in (False, True) if trust else (False,):
        loaded = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
        if loaded.backend_tokenizer.to_str() != expected:
            return False
    return True


def _same(
    kind: type[transformers.PretrainedConfig], one: dict[str, Any], other: dict[str, Any]
) -> bool:
    """Whether the installed transformers reads the same config from two contents of config.json."""
    first, second = (kind.from_dict(copy.deepcopy(each)).to_dict() for each in (one, other))
    return _holds(second, first)


def _holds(whole: Any, part: Any) -> bool:
    """Whether `whole` has every key of `part` with the same value, at every level."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and _holds(whole[key], value) for key, value in part.items())
    return bool(whole == part)


def _write(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")
