"""The warning for a base whose matrix has padding, where the output's has none."""

from __future__ import annotations

from mergekit.common import ModelReference

from mergekit_omp.transplant.config import TokenizerSource


def left_out_padding(
    base: ModelReference, *, rows: int, tokens: int, kept: int, source: TokenizerSource
) -> str:
    """The warning: `base` has `rows` rows for `tokens` ids, and the output has `kept` rows."""
    multiple = next(m for m in (128, 64, 32, 16, 8, 4, 2, 1) if rows % m == 0)
    return (
        f"{base} has {rows} rows for {tokens} ids, and the output {kept}: its {rows - tokens} rows "
        f"of padding are left out. To pad the output, write `tokenizer: {{source: {source}, "
        f"pad_to_multiple_of: {multiple}}}`."
    )
