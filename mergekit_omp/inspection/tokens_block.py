"""The `tokenizer:` block to paste into a config, which gives unmatched markup rows of the base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration


def tokens_block(
    config: MergeConfiguration, model: ModelReference, counterparts: Mapping[str, str]
) -> str:
    """YAML in place of the config's `tokenizer_source:` or `tokenizer:`.

    `counterparts`: for tokens of the output, the token of `model` whose row each is to get.
    """
    block: dict[str, Any] = {"source": str(config.tokenizer_source or "")}
    if config.tokenizer is not None:
        block = config.tokenizer.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        block["source"] = str(config.tokenizer.source)
    tokens = dict(block.pop("tokens", {}))
    for token, other in counterparts.items():
        source = {"kind": "model_token", "model": str(model), "token": other}
        tokens[token] = {"source": source, "force": True}
    text: str = yaml.safe_dump(
        {"tokenizer": {**block, "tokens": tokens}},
        sort_keys=False,
        # YAML writes marks of direction and line breaks of Unicode as they are.
        allow_unicode=all(name.isprintable() for name in (*tokens, *counterparts.values())),
        width=2**16,
    )
    return text.rstrip("\n")
