"""Whether a grown model says what it said before: its logits on a sample, to the bit.

Of large models the part that does not fit a bound stays on disk while it is not needed, by way of
accelerate, so that the check takes as little memory as growing does.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int64
from torch import Tensor

from mergekit_omp.errors import TransplantError
from mergekit_omp.growth.over_encoding import over_encoded
from mergekit_omp.models.tokenizer_files import open_tokenizer
from mergekit_omp.outside.faults import of_library

SEQUENCES, LENGTH = 2, 48
MEMORY = 2 << 30
"""Bytes of a model that are in memory at a time, but for one layer more."""


def sample(rows: int, seed: int = 0) -> Int64[Tensor, "sequences length"]:
    """Ids to compare on."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(rows, (SEQUENCES, LENGTH), generator=generator)


def logits(
    model_class: Any, folder: Path, ids: Int64[Tensor, "sequences length"], memory: int = MEMORY
) -> Float[Tensor, "sequences length vocabulary"]:
    """What a model of this class makes of the ids. TransplantError where it is not whole."""
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    with _quietly(), tempfile.TemporaryDirectory() as scratch:
        more: dict[str, Any] = {}
        if size > memory:
            more = {
                "device_map": "auto",
                "max_memory": {"cpu": memory},
                "offload_folder": scratch,
            }
        with of_library(
            f"The model {folder} cannot be loaded",
            "Grow a model whose config.json and weights belong together.",
        ):
            model, info = model_class.from_pretrained(
                folder, dtype="auto", output_loading_info=True, **more
            )
        if missing := sorted(map(str, info["missing_keys"])):
            raise TransplantError(
                f"The weights of {folder} lack {len(missing)} of the model's tensors, of which "
                f"one is {missing[0]}. Grow a model that is whole."
            )
        if (grown := getattr(model, "over_encoding", None)) and grown.exact is not None:
            # Rows that are given back are meant to change what it says: all else is compared.
            grown.exact.share, grown.exact.own = 0.0, 1.0
        with torch.inference_mode():
            found: Tensor = model.eval()(input_ids=ids, use_cache=False).logits
            if getattr(model, "over_decoding", None) is not None:
                _check_heads(model, ids, found, folder)
        del model
        gc.collect()
        return found


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the libraries' bars and remarks: the command has its own."""
    ours = transformers.utils.logging
    bars, verbosity = ours.is_progress_bar_enabled(), ours.get_verbosity()
    offloading = logging.getLogger("accelerate.big_modeling")
    level = offloading.level
    ours.disable_progress_bar()
    ours.set_verbosity_error()
    offloading.setLevel(logging.ERROR)
    try:
        yield
    finally:
        offloading.setLevel(level)
        ours.set_verbosity(verbosity)
        if bars:
            ours.enable_progress_bar()


def _check_heads(model: Any, ids: Tensor, logits: Tensor, folder: Path) -> None:
    """Refuse heads that are no copies: before training they must say what the model says."""
    hidden = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[-1]
    for further in model.over_decoding(hidden):
        if not torch.allclose(further, logits, rtol=1e-2, atol=1e-2, equal_nan=True):
            raise TransplantError(
                f"The logits of {folder} are not those of its head on its last hidden state, so "
                "that copies of the head predict something else. Leave out --over-decoding."
            )


def check_tokenizer(before: Path, after: Path, text: str) -> None:
    """Refuse an output whose tokenizer is read as another: transformers goes by the model's type."""
    if not (before / "tokenizer_config.json").is_file():
        return
    ids = [open_tokenizer(str(path))(text)["input_ids"] for path in (before, after)]
    if ids[0] != ids[1]:
        raise TransplantError(
            f"The tokenizer of {before} is read as another where it lies beside a grown model. Save "
            "it again with transformers' save_pretrained, which names its class, and grow that."
        )


def check_equal(class_name: str, before: Path, after: Path, rows: int, memory: int = MEMORY) -> int:
    """Raise TransplantError unless both have the same logits; how many tokens were compared."""
    ids = sample(rows)
    old = logits(getattr(transformers, class_name), before, ids, memory)
    new = logits(over_encoded(class_name), after, ids, memory)
    same = (old == new) | (old.isnan() & new.isnan())
    if not bool(same.all()):
        worst = float((old - new).abs().nan_to_num().max())
        raise TransplantError(
            f"The grown model does not say what {before} says: logits differ by up to {worst:g}, "
            f"so nothing is kept. The class {class_name} does more with ids than to embed them. Grow "
            "a model of another class."
        )
    return ids.numel()
