"""The model that is to be grown: its class, its files and its input embedding.

Weights are known by their headers alone: they are copied as files and never read as numbers.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from huggingface_hub import snapshot_download
from mergekit.common import ModelPath, ModelReference
from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from mergekit_omp.errors import TransplantError
from mergekit_omp.growth.over_encoding import MODEL_TYPE, guarded
from mergekit_omp.models.configs import is_grown, read_config
from mergekit_omp.models.weight_files import NAMES, Index, check_weights
from mergekit_omp.outside.faults import of_library
from mergekit_omp.outside.files import read_json

_TAKES = ("input_ids", "inputs_embeds", "past_key_values", "attention_mask")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")
_NOT_COPIED = (
    *("config.json", "README.md", "model.safetensors.index.json", "growth.json"),
    # A report is on the model as it was.
    *("tokenizer_transplant.html", "tokenizer_transplant.md"),
)
_WANTED = [
    *("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py"),
    *("README.md", "LICENSE*"),
]
_UNWANTED = ["original/*", "onnx/*", "consolidated*"]
_FOLDERS = ("additional_chat_templates",)


@dataclass(frozen=True)
class SourceModel:
    """A model on disk, of a class that can be grown."""

    name: str
    folder: Path
    settings: dict[str, Any]
    """Its config.json."""
    config: PretrainedConfig
    """The same as transformers reads it."""
    class_name: str
    shards: dict[str, list[str]]
    """The names of the tensors in each file of weights."""
    embedding: str
    """The stored name of its input embedding."""
    head: str | None
    """The stored name of its head, which may be the input embedding; None where it is not plain."""
    head_bias: str | None
    rows: int
    """Of the input embedding."""
    dim: int
    embed_scale: float
    """What the input embedding multiplies its rows by."""
    dtype: torch.dtype
    parameters: int
    size: int
    """Bytes of its weights."""

    def other_files(self) -> Iterator[Path]:
        """What is copied beside the weights, as paths within the folder: tokenizer, templates."""
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith(".") or path.name in _NOT_COPIED:
                continue
            if path.is_file() and not path.name.endswith((*_WEIGHTS, ".index.json")):
                yield Path(path.name)
            elif path.is_dir() and path.name in _FOLDERS:
                yield from (
                    p.relative_to(self.folder) for p in sorted(path.iterdir()) if p.is_file()
                )


def open_source(name: str) -> SourceModel:
    """A model by its folder or its name on a hub. TransplantError where it cannot be grown."""
    reference = ModelReference(model=ModelPath(path=name))
    _refuse_grown(name)
    config = read_config(reference)
    folder = Path(name)
    if not folder.exists():
        with of_library(f"The model {name} cannot be had", "Check the name, or download it first."):
            folder = Path(
                snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
            )
    _refuse_grown(str(folder))
    class_name, embedding, head, scale = _class_of(name, config)
    check_weights(folder, "The model")
    shards = _shards(name, folder)
    headers = {
        tensor: header for file in shards for tensor, header in _headers(folder / file).items()
    }
    entry = _named(embedding, headers)
    dtype = _DTYPES.get(headers[entry][0]) if entry else None
    if entry is None or dtype is None:
        found = f"has the type {headers[entry][0]}" if entry else "is not among its weights"
        raise TransplantError(
            f"The input embedding of {name} ({embedding}) {found}. Grow a model whose embedding "
            "is stored as floats of 16 bits or more."
        )
    return SourceModel(
        name=name,
        folder=folder,
        settings=read_json(folder / "config.json", dict),
        config=config,
        class_name=class_name,
        shards=shards,
        embedding=entry,
        head=_named(f"{head}.weight", headers) or (entry if config.tie_word_embeddings else None)
        if head
        else None,
        head_bias=_named(f"{head}.bias", headers) if head else None,
        rows=headers[entry][1][0],
        dim=headers[entry][1][1],
        embed_scale=scale,
        dtype=dtype,
        parameters=sum(_count(shape) for _, shape in headers.values()),
        size=sum((folder / file).stat().st_size for file in shards),
    )


def _refuse_grown(name: str) -> None:
    if is_grown(name):
        raise TransplantError(
            f"{name} is already grown: its config.json has `over_encoding`. Grow the model that it "
            "was made from."
        )


def _class_of(name: str, config: PretrainedConfig) -> tuple[str, str, str | None, float]:
    """The model's class, the names of its input embedding's weight and of its head if that is plain,
    and what the embedding multiplies its rows by."""
    remedy = "Grow a decoder-only language model of a class that transformers itself has."
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        raise TransplantError(
            f"{name} ({config.model_type}) is no decoder-only language model that transformers "
            f"knows. {remedy}"
        )
    found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    wanted = found[0] if isinstance(found, tuple) else found
    what = f"{name} is a {wanted.__name__}, whose input embedding cannot be wrapped"
    if config.get_text_config() is not config:
        raise TransplantError(f"{what}: it reads more than text. {remedy}")
    taken = inspect.signature(wanted.forward).parameters
    if missing := [each for each in _TAKES if each not in taken]:
        raise TransplantError(f"{what}: it takes no {', '.join(missing)}. {remedy}")
    if getattr(config, "quantization_config", None):
        raise TransplantError(
            f"{name} is quantised, and tables cannot be added to codes. Grow it before that."
        )
    with of_library(f"The config.json of {name} makes no model", remedy), torch.device("meta"):
        model = wanted(config)
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise TransplantError(f"{what}: it is a {type(embedding).__name__}. {remedy}")
    names = {id(module): n for n, module in model.named_modules()}
    head = model.get_output_embeddings()
    plain = names[id(head)] if isinstance(head, nn.Linear) else None
    # A scale that is a tensor is on no device here, and its number beside it.
    scale = getattr(embedding, "scalar_embed_scale", getattr(embedding, "embed_scale", 1.0))
    return wanted.__name__, f"{names[id(embedding)]}.weight", plain, float(scale)


def _shards(name: str, folder: Path) -> dict[str, list[str]]:
    index = folder / f"{NAMES[0]}.index.json"
    if index.is_file():
        found: dict[str, list[str]] = {}
        for tensor, file in read_json(index, Index).weight_map.items():
            found.setdefault(file, []).append(tensor)
        return found
    if not (folder / NAMES[0]).is_file():
        raise TransplantError(
            f"The weights of {name} are not safetensors, to which tables can be added without "
            "reading them. Save the model again with transformers' save_pretrained."
        )
    return {NAMES[0]: list(_headers(folder / NAMES[0]))}


def _headers(file: Path) -> dict[str, tuple[str, list[int]]]:
    """(dtype, shape) of each tensor of a file."""
    with safetensors.safe_open(file, framework="pt") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        return {name: (s.get_dtype(), s.get_shape()) for name, s in slices.items()}


def _named(wanted: str, tensors: dict[str, Any]) -> str | None:
    """The stored name of a parameter: checkpoints may leave out a prefix, or have one more."""
    parts = wanted.split(".")
    endings = [".".join(parts[i:]) for i in range(len(parts) - 1)]
    exact = next((ending for ending in endings if ending in tensors), None)
    return exact or next((t for t in tensors if t.endswith(f".{wanted}")), None)


def _count(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def config_text(source: SourceModel, over_encoding: dict[str, Any]) -> str:
    """The output's config.json: the source's, with the class that has tables."""
    prefix = f"over_encoding.OverEncoded{source.class_name}"
    content = {
        **source.settings,
        "model_type": MODEL_TYPE,
        "architectures": [f"OverEncoded{source.class_name}"],
        "auto_map": {"AutoConfig": f"{prefix}Config", "AutoModelForCausalLM": prefix},
        "over_encoding": over_encoding,
    }
    return json.dumps(guarded(content, source.config), indent=2, ensure_ascii=False) + "\n"
