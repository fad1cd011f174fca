"""A tokenizer's components (normalizer, pre-tokenizer, decoder) as data.

Follows the `tokenizers` library: each component pickles to a small JSON object with a `type`, and
a `Sequence` lists others. The model and the added tokens are never serialised, they are large.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers

from mergekit_omp.outside.faults import of_library

Step = dict[str, Any]


def steps(component: Any) -> list[Step]:
    """The component's steps in order, sequences flattened; none for a missing component."""
    if component is None:
        return []
    return _flat(json.loads(component.__getstate__()))


def _flat(state: Step) -> list[Step]:
    if state["type"] != "Sequence":
        return [state]
    parts = next(value for key, value in state.items() if key != "type")
    return [step for part in parts for step in _flat(part)]


def without_dummy_prefix(backend: Tokenizer) -> Tokenizer:
    """A copy that reads a text as a continuation and knows no added tokens.

    The model is shared with the original; nothing is added before the text, no control token is
    recognised, no post-processor runs.
    """
    # tokenizers 0.23 never frees what a cache of pieces holds, megabytes for each tokenizer, and
    # tokens are read once each. Older versions, and models without a cache, have no such method.
    if hasattr(backend.model, "_resize_cache"):
        backend.model._resize_cache(0)
    copy = Tokenizer(backend.model)
    normalizer = [step for step in steps(backend.normalizer) if step["type"] != "Prepend"]
    if normalizer:
        copy.normalizer = _rebuilt(normalizers.Sequence([]), "normalizers", normalizer)
    pre_tokenizer = [_unprefixed(step) for step in steps(backend.pre_tokenizer)]
    if pre_tokenizer:
        copy.pre_tokenizer = _rebuilt(pre_tokenizers.Sequence([]), "pretokenizers", pre_tokenizer)
    return copy


def _unprefixed(step: Step) -> Step:
    step = dict(step)
    if "add_prefix_space" in step:
        step["add_prefix_space"] = False
    if "prepend_scheme" in step:
        step["prepend_scheme"] = "never"
    return step


def _rebuilt(empty: Any, key: str, parts: list[Step]) -> Any:
    with of_library(f"A tokenizer's {key} cannot be put together again", "Name another tokenizer."):
        empty.__setstate__(json.dumps({"type": "Sequence", key: parts}).encode())
    return empty
