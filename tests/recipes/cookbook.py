"""The cookbook's models by name, each with a small one that stands for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

COOKBOOK = Path(__file__).parents[2] / "configs"
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
HEADERS = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}"
)
CHAT_MARKUP = ["<|im_start|>", "<|im_end|>"]
IMAGES = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
HEADER_MARKUP = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

# By name in the cookbook: tokenizer, control tokens, chat template, settings of the model.
LLAMA = ("sentencepiece_bpe", HEADER_MARKUP, HEADERS)
QWEN = ("byte_level", CHAT_MARKUP, CHATML)
SMALL: dict[str, tuple[str, list[str], str | None, dict[str, Any]]] = {
    "meta-llama/Llama-3.2-1B": (*LLAMA, {"layers": 16, "tied": True}),
    "meta-llama/Llama-3.2-1B-Instruct": (*LLAMA, {"layers": 16, "tied": True, "seed": 1}),
    "meta-llama/Llama-3.1-8B": (*LLAMA, {"seed": 2}),
    "meta-llama/Llama-3.1-8B-Instruct": (*LLAMA, {"seed": 3}),
    "meta-llama/Llama-3.1-70B-Instruct": (*LLAMA, {"seed": 4, "rows": 2048, "hidden": 32}),
    "Qwen/Qwen2.5-0.5B-Instruct": (*QWEN, {"seed": 5, "tied": True, "layers": 24}),
    "Qwen/Qwen2.5-1.5B-Instruct": (*QWEN, {"seed": 6, "tied": True}),
    "Qwen/Qwen2.5-7B": (*QWEN, {"seed": 7}),
    "Qwen/Qwen2.5-7B-Instruct": (*QWEN, {"seed": 8}),
    "Qwen/Qwen2.5-Coder-7B": (*QWEN, {"seed": 9}),
    "mistralai/Mistral-7B-v0.1": ("sentencepiece_bpe", [], None, {"seed": 10}),
    "teknium/OpenHermes-2.5-Mistral-7B": (
        "sentencepiece_bpe",
        CHAT_MARKUP,
        CHATML,
        {"seed": 11},
    ),
    "example/mistral-7b-code": ("sentencepiece_bpe", ["<fim>", "<fill>"], None, {"seed": 12}),
    "mistralai/Mistral-7B-v0.3": ("sentencepiece_bpe", [], None, {"seed": 13}),
    "example/mistral-7b-tekken": ("byte_level", [], None, {"seed": 14}),
}


def with_small(entry: Any, small: Callable[[str], Path]) -> Any:
    """A config with every name of a model replaced."""
    if isinstance(entry, dict):
        return {key: with_small(value, small) for key, value in entry.items()}
    if isinstance(entry, list):
        return [with_small(value, small) for value in entry]
    is_model = isinstance(entry, str) and "/" in entry
    return str(small(entry)) if is_model else entry
