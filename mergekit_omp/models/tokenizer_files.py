"""Loads tokenizers, for merges, reports and evaluations, and refuses those that are not usable."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import transformers
from tokenizers import Tokenizer

from mergekit_omp.errors import TransplantError
from mergekit_omp.outside.counts import counted
from mergekit_omp.outside.faults import of_library
from mergekit_omp.outside.files import read_json

LOG = logging.getLogger(__name__)

_FILES = "tokenizer.json, tokenizer_config.json"


def open_tokenizer(
    path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> transformers.PreTrainedTokenizerBase:
    """A fresh copy of a model's tokenizer. TransplantError, naming it, where there is none.

    BPE dropout, which cuts one text in another way each time, is turned off.
    """
    local = os.path.exists(path)
    if not local and looks_like_a_path(path):
        raise TransplantError(
            f"The tokenizer of {path} is needed, but there is no such directory. Check the path "
            "in `tokenizer_source:` and in the list of models."
        )
    if local:
        _check_files(Path(path))
    remedy = (
        f"Put its tokenizer files ({_FILES}) into that directory, or name another model."
        if local
        else "Check the name in `tokenizer_source:` and in the list of models."
    )
    with of_library(f"{path} has no tokenizer that transformers can load", remedy):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code, use_fast=True
        )
    with of_library(f"The tokenizer of {path} loads, and fails on a text", remedy):
        tokenizer("a 1")
    _turn_dropout_off(tokenizer, path)
    return tokenizer


def looks_like_a_path(name: str) -> bool:
    """Whether a name looks like a path, and not like the id of a repository on the Hub."""
    return name[:1] in tuple("/.~") or name.count("/") > 1


def check_it_can_be_saved(tokenizer: transformers.PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer that cannot be loaded again once it is saved, or loses tokens.

    Where two tokens have the same id, for instance, only one of them is saved, and the merges of
    byte-pair encoding may refer to the other.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return
    remedy = "Repair its tokenizer.json, in which two tokens may have one id, or name another."
    what = f"The tokenizer of {name}, once saved, does not load again"
    try:
        with of_library(what, remedy):
            again = Tokenizer.from_str(backend.to_str())
    except TransplantError as error:
        # The library names a token, but not the same one in every run: leave it out.
        raise TransplantError(f"{what}. {remedy}") from error
    lost = backend.get_vocab().keys() - again.get_vocab().keys()
    if lost:
        token = min(lost)
        raise TransplantError(
            f"The tokenizer of {name}, once saved, has lost {counted(len(lost), 'token')}, of which one is "
            f"{token!r}: its id {backend.token_to_id(token)} is that of another token. {remedy}"
        )


def _check_files(folder: Path) -> None:
    """Refuse a folder whose tokenizer files are missing or not JSON, and name the file."""
    remedy = f"Put whole tokenizer files ({_FILES}) there, or name another model."
    if not folder.is_dir():
        raise TransplantError(
            f"The tokenizer of {folder} is needed, but that is a file. Name a directory."
        )
    entries = list(folder.iterdir())
    for entry in entries:
        if entry.exists() and not entry.is_file() and not entry.is_dir():
            raise TransplantError(f"{entry} is no file that can be read. {remedy}")
    held = {entry.name for entry in entries}
    if "tekken.json" in held and "tokenizer.json" not in held:
        raise TransplantError(
            f"{folder} has its tokenizer as Mistral's tekken.json alone, in which roles and "
            'control tokens are not those of a tokenizer.json. Convert it once: python -c "from '
            "transformers.integrations.mistral import convert_tekken_tokenizer; "
            f"convert_tekken_tokenizer('{folder / 'tekken.json'}').save_pretrained('{folder}')\""
        )
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
    ):
        if name in held:
            read_json(folder / name, dict, remedy)


def _turn_dropout_off(tokenizer: transformers.PreTrainedTokenizerBase, path: str) -> None:
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    dropout = getattr(model, "dropout", None)
    if model is not None and dropout:
        model.dropout = None
        LOG.warning(
            "The tokenizer of %s cuts texts at random (BPE dropout %g), which is turned off.",
            path,
            dropout,
        )
