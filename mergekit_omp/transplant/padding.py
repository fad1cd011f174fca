"""Rows of padding that a base has and an output has not."""

from __future__ import annotations

from mergekit.common import ModelReference

from mergekit_omp.transplant.config import TokenizerSource


def left_out_padding(
    base: ModelReference, *, rows: int, tokens: int, kept: int, source: TokenizerSource
) -> str:
    """What to say of a base with `rows` for `tokens` ids, of whose padding an output of `kept` has none."""
    multiple = next(m for m in (128, 64, 32, 16, 8, 4, 2, 1) if rows % m == 0)
    return (
        f"{base} has {rows} rows for {tokens} ids, and the output {kept}: its {rows - tokens} rows "
        f"of padding are left out. To pad the output, write `tokenizer: {{source: {source}, "
        f"pad_to_multiple_of: {multiple}}}`."
    )
