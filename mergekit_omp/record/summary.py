"""What a merge tells on the terminal: facts for the log, and a summary at the end."""

from __future__ import annotations

import os
import shlex
import textwrap
from typing import Any

from mergekit_omp.outside.counts import counted
from mergekit_omp.record.record import FILE_NAME
from mergekit_omp.record.sentences import (
    by_counts,
    by_models,
    fit_sentence,
    matched,
    restoring,
    rows_of,
    tokenizer_of,
)

WIDTH = 80


def planned_facts(record: dict[str, Any], token_ids: dict[str, Any]) -> list[str]:
    """What is known before the merge runs, one line a fact; `token_ids` are the output's."""
    output = record["output"]
    facts = [f"the output has {_size(output)}, with the tokenizer of {tokenizer_of(record)}"]
    ids = [
        f"{key.removesuffix('_token_id')} {value}"
        for key, value in token_ids.items()
        if key in ("bos_token_id", "eos_token_id", "pad_token_id")
    ]
    facts.append(f"token ids set: {', '.join(ids) or 'none, as the tokenizer names none'}")
    for models, tensors in by_models(record):
        for parts, tensor in by_counts(tensors):
            name = f"{models}, {parts}" if parts else models
            facts.append(f"{name}: {rows_of(tensor)} ({matched(tensor)})")
    return facts


def summary(record: dict[str, Any], out_path: str) -> str:
    """What was merged, how well it fits, and what to run next, in lines of 80 columns where paths let it."""
    output = record["output"]
    blocks = [
        (
            "",
            f"Merged into {out_path}: {_size(output)}, "
            f"with the tokenizer of {tokenizer_of(record)}.",
        )
    ]
    for models, tensors in by_models(record):
        for parts, tensor in by_counts(tensors):
            blocks.append(("  ", f"{models}{', ' + parts if parts else ''}: {rows_of(tensor)}"))
        if fitted := fit_sentence(tensors):
            blocks.append(("    ", fitted))
    lines = [
        textwrap.fill(
            text,
            WIDTH,
            initial_indent=indent,
            subsequent_indent=indent + "  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for indent, text in blocks
    ]
    # What a user may copy stays on one line.
    if count := len(record["warnings"]):
        path = shlex.quote(os.path.join(out_path, FILE_NAME))
        lines.append(f"  {counted(count, 'warning')}, above and in {path}")
    lines.append(f"Next: mergekit-omp report {shlex.quote(out_path)}")
    if found := restoring(record, out_path):
        lines.append(f"      {found[1]}")
    return "\n".join(lines)


def _size(output: dict[str, Any]) -> str:
    return f"{counted(output['tokens'], 'token')} in {counted(output['vocab_size'], 'row')}"
