"""Tokenizers written by hand, whose every id and merge a test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from mergekit_omp.vocabulary import Vocabulary


def sentencepiece(
    ids: Mapping[str, int],
    merges: Sequence[tuple[str, str]] = (),
    *,
    control: Sequence[str] = (),
    markup: Sequence[str] = (),
    **roles: str,
) -> PreTrainedTokenizerFast:
    """A tokenizer like Llama 2's; `markup` is added without being special."""
    tokenizer = Tokenizer(models.BPE(dict(ids), list(merges), byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in markup])
    named = {f"{role}_token": token for role, token in roles.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named
    )


def numbered(*tokens: str) -> dict[str, int]:
    """Tokens numbered from zero."""
    return {token: i for i, token in enumerate(tokens)}


def vocabulary(*tokens: str, name: str = "handmade", **options) -> Vocabulary:
    """The vocabulary of a handmade tokenizer whose tokens are numbered from zero."""
    return Vocabulary.from_tokenizer(sentencepiece(numbered(*tokens), **options), name)
