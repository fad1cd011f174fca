"""Applies the config's `chat_template:` to the output's tokenizer while planning.

mergekit does so at the very end, so that a bad template would be found when all is written.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from mergekit import merge
from mergekit._data import chat_templates
from mergekit.config import MergeConfiguration
from transformers import PreTrainedTokenizerBase

from mergekit_omp.errors import TransplantError
from mergekit_omp.transplant.chat import syntax_error


def set_chat_template(config: MergeConfiguration, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set `tokenizer`'s chat template. TransplantError for an unknown name or a syntax error."""
    if not config.chat_template:
        return
    try:
        merge._set_chat_template(tokenizer, config)
    except RuntimeError as error:
        files = importlib.resources.files(chat_templates).iterdir()
        names = sorted(Path(file.name).stem for file in files if file.name.endswith(".jinja"))
        raise TransplantError(
            f"`chat_template: {config.chat_template}` is neither a template nor the name of one. "
            f"Write `auto`, one of mergekit's names ({', '.join(names)}), or the text of a "
            "template in Jinja."
        ) from error
    problem = syntax_error(tokenizer)
    if problem is not None:
        raise TransplantError(
            f"`chat_template:` is not a template that Jinja understands ({problem}). Mend it, or "
            "leave it out."
        )
