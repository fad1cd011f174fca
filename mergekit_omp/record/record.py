"""`tokenizer_transplant.json`: what was done to each vocabulary tensor of each model."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from typing import Any

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
    warnings: list[str],
) -> dict[str, Any]:
    """The record as planned; the merge adds to the `tensors` of its `models` what it measures."""
    return {
        "format": FORMAT,
        "merge_method": merge_method,
        "approximation": approximation,
        "base_model": base_model,
        "output": {"tokenizer_source": tokenizer_source, "tokens": tokens, "vocab_size": rows},
        "models": models,
        "warnings": warnings,
        "versions": {
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
            "python": platform.python_version(),
        },
    }


def save_record(folder: str, record: dict[str, Any]) -> None:
    """Write the record into `folder`, with the names of all files there: they are of this merge."""
    record["files"] = sorted({*os.listdir(folder), FILE_NAME})
    path = os.path.join(folder, FILE_NAME)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=2, ensure_ascii=False, sort_keys=False)
        file.write("\n")
