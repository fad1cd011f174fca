"""The demo's two kinds of tokenizer, and a third: byte-level BPE that writes single digits."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mergekit_omp.demo.tokenizers import TokenizerStyle, train_tokenizer

STYLES = ("byte-level, digits in threes", "byte-level, single digits", "sentencepiece")

_WORDS_AND_SINGLE_DIGITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen splits text before BPE."""


def make_tokenizer(style: str, texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of one of `STYLES`, trained on `texts`."""
    if style == "sentencepiece":
        return train_tokenizer(TokenizerStyle.SENTENCEPIECE, texts, vocab_size)
    if style == "byte-level, digits in threes":
        return train_tokenizer(TokenizerStyle.BYTE_LEVEL, texts, vocab_size)
    if style != "byte-level, single digits":
        raise ValueError(f"there is no tokenizer style {style!r}: write one of {STYLES}")
    template = train_tokenizer(TokenizerStyle.BYTE_LEVEL, texts[:50], 512)
    template.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS_AND_SINGLE_DIGITS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return template.train_new_from_iterator(texts, vocab_size, show_progress=False)
