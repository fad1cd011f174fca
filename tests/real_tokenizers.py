"""Real tokenizers for the tests, by name: published ones, and small trained ones.

They are kept as tokenizer directories in a folder that the caller chooses, so that each is
converted or trained once.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path

import published_tokenizers as published
import trained_tokenizers as trained
from filelock import FileLock
from transformers import AutoTokenizer, PreTrainedTokenizerFast

PUBLISHED: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "llama3": published.llama3,
    "llama4": published.llama4,
    "qwen": published.qwen,
    "tekken": published.tekken,
    "mistral3": published.mistral3,
    "deepseek": published.deepseek,
    "o200k": published.o200k,
}
TRAINED: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte_level": trained.byte_level,
    "sentencepiece_bpe": trained.sentencepiece_bpe,
    "unigram": trained.unigram,
    "wordpiece": trained.wordpiece,
}


def directory(name: str, cache: Path) -> Path:
    """The tokenizer `name` of PUBLISHED or TRAINED as a directory that transformers loads.

    Made once in `cache`, and again when a file that makes it changes; a trained one for each Python,
    on whose manual it is trained.
    """
    makers = (published,) if name in PUBLISHED else (published, trained)
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in makers)
    version = hashlib.sha256(sources).hexdigest()[:12]
    if name in TRAINED:
        version += f"-{platform.python_version()}"
    folder = cache / f"{name}-{version}"
    with FileLock(cache / f"{name}-{version}.lock"):  # two processes run the suite
        if not folder.exists():
            draft = cache / f"{name}-{version}-{os.getpid()}"
            (PUBLISHED | TRAINED)[name]().save_pretrained(draft)
            draft.rename(folder)
    return folder


def load(name: str, cache: Path) -> PreTrainedTokenizerFast:
    """The tokenizer `name` of PUBLISHED or TRAINED."""
    return AutoTokenizer.from_pretrained(directory(name, cache))
