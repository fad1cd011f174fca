"""Refuses quantised checkpoints, whose weights are codes, and vocabulary tensors of an odd shape.

Everything is read from configs and headers. Quantisation is recognised by transformers'
`quantization_config` (bitsandbytes, GPTQ, AWQ, compressed-tensors, FP8, MXFP4), and by the names
that these formats give to packed weights and their scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mergekit.common import ModelReference
from mergekit.io.tasks import LoaderCache
from torch import Tensor
from transformers import PretrainedConfig

from mergekit_omp.approximation.base import Part
from mergekit_omp.errors import TransplantError
from mergekit_omp.models.headers import header
from mergekit_omp.models.known_model import known_model
from mergekit_omp.models.tensors import EIGHT_BIT_FLOATS, VocabularyTensor

# Last parts of tensor names that stand in place of `weight`, or beside it, in such checkpoints.
_PACKED = (
    *("qweight", "qzeros", "g_idx", "scales", "SCB", "weight_format"),
    *("absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state"),
    *("weight_packed", "weight_scale", "weight_scale_inv", "weight_zero_point", "weight_shape"),
    *("weight_scale_2", "scale_inv", "input_scale", "qscale_weight", "_blocks", "_scales"),
)
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_REMEDY = (
    "Dequantise it first (load it with transformers, `model.dequantize()`, `save_pretrained`), or "
    "name the checkpoint that it was made from."
)


def check_base(
    model: ModelReference,
    config: PretrainedConfig,
    tensors: Mapping[str, Tensor],
    dtype: str | None,
) -> None:
    """Refuse a quantised model of the merge.

    `dtype` is what the merge's config casts weights to: 8-bit floats are accepted if it is set.
    """
    method = _quantization(config)
    if method is not None:
        raise TransplantError(
            f"{model} is quantised ({method}): its weights are codes, which cannot be merged. "
            + _REMEDY
        )
    packed = [name for name in tensors if _is_packed(name, tensors)]
    codes = [name for name, tensor in tensors.items() if _holds_codes(tensor)]
    if codes and not packed:
        known = known_model(config, trust_remote_code=LoaderCache().trust_remote_code)
        names = known.names(tensors) if known else {}
        # Integers that the model itself has, such as positions or masks, are no codes.
        codes = [
            name
            for name in codes
            if known is None
            or not (
                ((new := names[name]) is None and known.ignores([name]))
                or (new is not None and not known.dtype(new.name).is_floating_point)
            )
        ]
    found = packed or codes
    if found:
        raise TransplantError(
            f"{model} holds packed or scaled weights ({_example(found[0], tensors)}): these are "
            f"codes, which cannot be merged. {_REMEDY}"
        )
    eight_bit = [n for n, tensor in tensors.items() if tensor.dtype in EIGHT_BIT_FLOATS]
    if eight_bit and dtype is None:
        raise TransplantError(
            f"{model} holds 8-bit floats ({_example(eight_bit[0], tensors)}), with which nothing can "
            "be computed. Add `dtype: bfloat16` to the config."
        )


def check_donor(model: ModelReference, tensors: Mapping[str, Tensor], names: list[str]) -> None:
    """Refuse a donor whose vocabulary tensors (`names`) are quantised; its other tensors may be."""
    modules = {name.rpartition(".")[0] for name in names}
    for name in tensors:
        if _is_packed(name, tensors) and any(
            name == module or name.startswith(f"{module}.") for module in modules if module
        ):
            raise TransplantError(
                f"The donor {model} has a packed or scaled vocabulary matrix "
                f"({_example(name, tensors)}): its rows are codes. {_REMEDY} A quantised donor "
                "serves where its embedding and head are plain."
            )


def check_vocabulary_tensor(tensor: VocabularyTensor) -> None:
    """Refuse a vocabulary tensor that holds no floats, or has another shape than its config says."""
    found = header(tensor.load_task())
    if found is None:
        return
    what = f"{tensor.weight.name} of {tensor.model}"
    if found.dtype not in _NUMBERS:
        raise TransplantError(
            f"{what} holds {_dtype(found.dtype)} numbers, not the rows of a vocabulary: packed or "
            f"damaged weights cannot be read. {_REMEDY}"
        )
    axis = tensor.weight.vocabulary_axis or 0
    bias = tensor.part == Part.HEAD_BIAS
    width = found.numel() // max(found.shape[axis], 1) if found.ndim > axis else 0
    if (bias and width != 1) or (not bias and found.ndim != 2):
        raise TransplantError(
            f"{what} has the shape {list(found.shape)}, which is not that of a vocabulary "
            f"{'bias' if bias else 'matrix'}. Check that the checkpoint is whole."
        )
    if bias:
        return
    config = tensor.model.config(trust_remote_code=LoaderCache().trust_remote_code)
    hidden = getattr(config.get_text_config(), "hidden_size", None)
    if width == hidden:
        return
    expected = _width(tensor, config)
    if expected is not None and width != expected:
        turned = found.shape[axis] == expected
        raise TransplantError(
            f"{what} has the shape {list(found.shape)}: rows of {width} numbers, where its config "
            f"says {expected}. "
            + ("It seems to be transposed. " if turned else "")
            + "Check that checkpoint and config belong together."
        )


def _width(tensor: VocabularyTensor, config: PretrainedConfig) -> int | None:
    """The length of the tensor's rows in the model that transformers builds from the config."""
    known = known_model(config, trust_remote_code=LoaderCache().trust_remote_code)
    if known is None:
        return None
    held = LoaderCache().get(tensor.model).index.tensor_paths
    weight = tensor.weight
    for name in (weight.name, *(weight.aliases or ()), *(weight.tied_names or ())):
        if name in held:
            new = known.names([name])[name]
            if new is not None and new.name in known.axes:
                shape = known.shape(new.name)
                return shape[1 - known.axes[new.name]] if len(shape) == 2 else None
    return None


def _quantization(config: PretrainedConfig) -> str | None:
    for level in (config, config.get_text_config()):
        for key in ("quantization_config", "compression_config"):
            settings: Any = getattr(level, key, None)
            if not settings:
                continue
            if not isinstance(settings, dict):
                settings = settings.to_dict()
            bits = next((b for b in ("4bit", "8bit") if settings.get(f"load_in_{b}")), "")
            name = str(settings.get("quant_method") or settings.get("format") or key)
            return " ".join(filter(None, (name.rpartition(".")[2].lower(), bits)))
    return None


def _holds_codes(tensor: Tensor) -> bool:
    return tensor.dtype.is_complex or tensor.dtype in (
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32),
        *(torch.uint64, torch.float4_e2m1fn_x2, torch.float8_e8m0fnu),
    )


def _is_packed(name: str, tensors: Mapping[str, Tensor]) -> bool:
    leaf = name.rpartition(".")[2]
    if leaf in _PACKED or name.endswith(("_blocks", "_scales")) or ".quant_state." in name:
        return True
    # A scale beside 8-bit floats, whatever its name.
    module = name.rpartition(".")[0]
    weight = tensors.get(f"{module}.weight")
    return "scale" in leaf and weight is not None and weight.dtype in EIGHT_BIT_FLOATS


def _example(name: str, tensors: Mapping[str, Tensor]) -> str:
    return f"{name}, {_dtype(tensors[name].dtype)} {list(tensors[name].shape)}"


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
