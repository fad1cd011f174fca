"""Small tokenizers of every kind, trained on CPython's manual."""

from __future__ import annotations

import json

from published_tokenizers import GPT4_LIKE, llama2_style
from tokenizers import (
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

BYTE_PIECES = [f"<0x{i:02X}>" for i in range(256)]
ALPHABET = [*list("éèüöäßñçøåÅΩλжд中文字한あ\n\t"), "▁"]
MARKUP = ["<unk>", "<s>", "</s>", "<pad>"]
ROLES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def manual() -> list[str]:
    """The text that ships with CPython: the topics of its manual."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def byte_level(size: int = 2000) -> PreTrainedTokenizerFast:
    """Byte-level BPE, digits in groups of three from the left."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GPT4_LIKE.replace("DIGITS", "1,3")), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=["<|begin|>", "<|end|>", "<|pad|>", "<|unknown|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(manual(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unknown|>",
        clean_up_tokenization_spaces=False,
    )


def sentencepiece_bpe(size: int = 2000) -> PreTrainedTokenizerFast:
    """As Llama 2's: BPE over the whole text, byte fallback, single digits, dummy prefix."""
    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size - 260, show_progress=False, initial_alphabet=ALPHABET
    )
    draft.train_from_iterator(manual(), trainer)
    learned = json.loads(draft.model.__getstate__())
    pieces = [*MARKUP, *BYTE_PIECES, *sorted(learned["vocab"], key=learned["vocab"].__getitem__)]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in learned["merges"]]
    model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)},
        merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=llama2_style(model), clean_up_tokenization_spaces=False, **ROLES
    )


def unigram(size: int = 2000) -> PreTrainedTokenizerFast:
    """SentencePiece's unigram model behind Metaspace, with byte fallback."""
    draft = Tokenizer(models.Unigram())
    draft.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size - 260,
        show_progress=False,
        unk_token="<unk>",
        special_tokens=MARKUP,
        initial_alphabet=ALPHABET,
    )
    draft.train_from_iterator(manual(), trainer)
    learned = [tuple(entry) for entry in json.loads(draft.model.__getstate__())["vocab"]]
    pieces = [*learned[:4], *((piece, -30.0) for piece in BYTE_PIECES), *learned[4:]]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **ROLES
    )


def wordpiece(size: int = 2000) -> PreTrainedTokenizerFast:
    """BERT's WordPiece, lower case."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        initial_alphabet=[letter for letter in ALPHABET if letter.strip("\n\t▁")],
    )
    tokenizer.train_from_iterator(manual(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        # WordPiece has no other words for where a text begins and ends.
        bos_token="[CLS]",
        eos_token="[SEP]",
        clean_up_tokenization_spaces=False,
    )
