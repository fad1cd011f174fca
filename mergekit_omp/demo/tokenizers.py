"""Two deliberately different tokenizers, trained on the spot.

`byte_level` is built as Llama 3's and Qwen's are: byte-level BPE, digits in threes, control tokens
at the end. `sentencepiece` is built as Llama 2's is: `▁` for spaces with a dummy prefix, single
digits, byte fallback, control and byte tokens at the start. They spell the same text differently,
so matching their tokens by string fails where matching by bytes does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)

_WORDS_AND_DIGITS_IN_THREES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 splits text before BPE."""

_WORDS_AND_SINGLE_DIGITS = r"▁+(?=▁)|▁?[^▁\d]+|\d|▁+"
"""The pieces inside which a SentencePiece model with `split_digits` learns its merges."""

_COMMON_CHARACTERS = 110
"""Characters with a token of their own; the rarer ones fall back to bytes."""


class TokenizerStyle(str, Enum):
    """How a tokenizer spells text."""

    BYTE_LEVEL = "byte_level"
    SENTENCEPIECE = "sentencepiece"


def train_tokenizer(
    style: TokenizerStyle, texts: Iterable[str], vocab_size: int
) -> PreTrainedTokenizerFast:
    """A tokenizer with exactly `vocab_size` tokens, if `texts` has so many different pieces.

    Raises:
        ValueError: `vocab_size` leaves no room for merges beside bytes and control tokens.
    """
    if vocab_size < 512:
        raise ValueError(f"vocab_size is {vocab_size}: write a number of at least 512")
    train = {
        TokenizerStyle.BYTE_LEVEL: _byte_level,
        TokenizerStyle.SENTENCEPIECE: _sentencepiece,
    }[style]
    return train(texts, vocab_size)


def _byte_level(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    control = ["<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS_AND_DIGITS_IN_THREES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(control),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(control)
    return _finished(tokenizer, bos=control[0], eos=control[1], pad=control[2])


def _sentencepiece(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    first = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    learner.pre_tokenizer = pre_tokenizers.Split(
        Regex(_WORDS_AND_SINGLE_DIGITS), behavior="isolated"
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(first), limit_alphabet=_COMMON_CHARACTERS, show_progress=False
    )
    # Line by line, as SentencePiece reads its input: newlines are left to byte fallback.
    lines = (line for text in texts for line in text.splitlines() if line)
    learner.train_from_iterator(lines, trainer)
    learned = json.loads(learner.to_str())["model"]
    pieces = [*first, *sorted(learned["vocab"], key=learned["vocab"].__getitem__)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[tuple(merge) for merge in learned["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = learner.normalizer
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in first[:4]])
    return _finished(tokenizer, unk="<unk>", bos="<s>", eos="</s>", pad="<pad>")


def _finished(tokenizer: Tokenizer, bos: str, **roles: str) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers saves and loads it; it puts bos in front of every text."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos} $B",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        **{f"{role}_token": token for role, token in roles.items()},
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
