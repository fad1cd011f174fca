"""`tokenizer_transplant.json`: what was done to each vocabulary tensor of each model."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from typing import Any

from mergekit_omp.record import row_facts
from mergekit_omp.record.row_facts import RowFacts

FORMAT = 1
FILE_NAME = "tokenizer_transplant.json"
_PACKAGES = ("mergekit-omp", "mergekit", "torch", "transformers", "tokenizers")


def transplant_record(
    *,
    merge_method: str,
    approximation: str,
    base_model: str,
    tokenizer_source: str,
    rows: int,
    tokens: int,
    models: list[dict[str, Any]],
    lost: float,
    warnings: list[str],
) -> dict[str, Any]:
    """The record as planned; the merge adds to the `tensors` of its `models` what it measures.

    `lost`: the share of a sample text's positions at which a token ends that only the base had.
    """
    return {
        "format": FORMAT,
        "merge_method": merge_method,
        "approximation": approximation,
        "base_model": base_model,
        "output": {"tokenizer_source": tokenizer_source, "tokens": tokens, "vocab_size": rows},
        "models": models,
        "lost": round(lost, 4),
        "warnings": warnings,
        "versions": {
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
            "python": platform.python_version(),
        },
    }


def save_record(
    folder: str, record: dict[str, Any], facts: Mapping[tuple[int, int], RowFacts] | None
) -> None:
    """Write the record and the facts on rows into `folder`, when all else is there.

    `facts` of None are those that lie in `folder` already.

    The record has the names of all files in `folder`: they are of this merge.
    """
    if facts is not None:
        row_facts.save(folder, facts)
    files = sorted({*os.listdir(folder), FILE_NAME})
    text = json.dumps({**record, "files": files}, indent=2, ensure_ascii=False)
    with open(os.path.join(folder, FILE_NAME), "w", encoding="utf-8") as file:
        file.write(text + "\n")
