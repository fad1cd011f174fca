"""PEFT's trainable tokens on a model's vocabulary matrices, and LoRA on its body where asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from peft import LoraConfig, PeftConfig, PeftModel, TrainableTokensConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from mergekit_omp.errors import TransplantError
from mergekit_omp.healing.rows import Matrix

ADAPTER = "default"
_CLOSE = 1e-2
"""By how much logits may differ that are computed in another order, in bfloat16 too."""


@dataclass(frozen=True, eq=False)
class Adapted:
    """A model with trainable rows, and these rows by matrix."""

    model: PeftModel
    rows: tuple[tuple[Matrix, nn.Parameter], ...]
    """Each matrix with its trained rows, in the order of its `ids`."""
    typical: tuple[float, ...]
    """The root mean square entry of each matrix's rows that are not trained."""

    def adapters(self) -> list[nn.Parameter]:
        """LoRA's matrices."""
        return [p for name, p in self.model.named_parameters() if ".lora_" in name]


def adapted(
    model: PreTrainedModel,
    matrices: Sequence[Matrix],
    name: str,
    sample: Int64[Tensor, "one window"],
    rank: int | None = None,
) -> Adapted:
    """The model with its matrices' rows trainable, on its device; with LoRA where there is a `rank`.

    TransplantError where PEFT makes another model of it: its logits on `sample` tell.
    """
    typical = tuple(_typical(model.get_submodule(m.module).weight, m) for m in matrices)
    modules = [model.get_submodule(matrix.module) for matrix in matrices]
    before = _logits(model, sample)
    every = _together(matrices)
    with warnings.catch_warnings():
        # It says that tied adapters are not implemented; for these they are, and it is checked.
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = get_peft_model(model, _config(matrices, every.tolist(), rank))
    wrapped.config.use_cache = False
    layers = [layer for layer in wrapped.modules() if isinstance(layer, TrainableTokensLayer)]
    rows = []
    for matrix, module in zip(matrices, modules, strict=True):
        layer = next(layer for layer in layers if layer.base_layer is module)
        delta = layer.trainable_tokens_delta[ADAPTER]
        _hold(delta, np.isin(every, matrix.ids))
        rows.append((matrix, delta))
    for layer in layers:
        _keep_bias(layer)
    if matrices[0].tied and not any(layer.tied_adapter is not None for layer in layers):
        raise TransplantError(
            f"The input embedding of {name} is its head too, and PEFT does not train them as one. "
            "Update peft, or heal another model."
        )
    if not torch.allclose(_logits(wrapped, sample), before, rtol=_CLOSE, atol=_CLOSE):
        raise TransplantError(
            f"With rows that PEFT can train, {name} computes something else: its embedding or head "
            "does more than to look up rows. Heal another model."
        )
    return Adapted(wrapped, tuple(rows), typical)


def _config(matrices: Sequence[Matrix], ids: list[int], rank: int | None) -> PeftConfig:
    modules = [matrix.module for matrix in matrices]
    if rank is None:
        return TrainableTokensConfig(
            target_modules=modules, token_indices=ids, task_type="CAUSAL_LM"
        )
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        trainable_token_indices=dict.fromkeys(modules, ids),
        task_type="CAUSAL_LM",
    )


def merged_body(adapted: Adapted) -> dict[str, Tensor]:
    """The weights that LoRA changed, by the model's names for them; the model is one without it then."""
    prefix = "base_model.model."
    changed = [
        name.removeprefix(prefix)
        for name, module in adapted.model.named_modules()
        if isinstance(module, LoraLayer)
    ]
    if not changed:
        return {}
    plain = adapted.model.merge_and_unload()
    return {f"{name}.weight": plain.get_submodule(name).weight.detach().cpu() for name in changed}


def trained_rows(adapted: Adapted) -> list[tuple[Matrix, Float[Tensor, "ids dim"]]]:
    """The rows of each matrix as they are now, in the order of its `ids`."""
    every = _together([matrix for matrix, _ in adapted.rows])
    return [
        (matrix, delta.detach().cpu()[torch.from_numpy(np.isin(every, matrix.ids))])
        for matrix, delta in adapted.rows
    ]


def _together(matrices: Sequence[Matrix]) -> Int64[np.ndarray, "ids"]:
    """The ids of all matrices, ascending: PEFT trains the same ids everywhere."""
    return np.unique(np.concatenate([matrix.ids for matrix in matrices]))


def _typical(weight: Tensor, matrix: Matrix) -> float:
    """The root mean square of the entries of rows that stay, empty ones apart."""
    stays = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
    stays[torch.from_numpy(matrix.ids).to(weight.device)] = False
    squares = weight.detach().float().square().mean(1)
    known = squares[stays & (squares > 0)]
    # Where no row stays, those that are trained are all there is.
    known = known if len(known) else squares
    return float(known.mean().sqrt())


def _hold(delta: nn.Parameter, trained: Bool[np.ndarray, "ids"]) -> None:
    """Hold rows that are new in another matrix alone."""
    if not trained.all():
        mask = torch.from_numpy(trained).to(delta.device)[:, None]
        delta.register_hook(lambda gradient: gradient * mask)


def _keep_bias(layer: TrainableTokensLayer) -> None:
    """PEFT's layer for a head leaves out the head's bias."""
    bias = getattr(layer.base_layer, "bias", None)
    if bias is not None:
        layer.register_forward_hook(lambda module, inputs, output: output + bias)


@torch.no_grad()
def _logits(model: nn.Module, sample: Int64[Tensor, "one window"]) -> Tensor:
    device = next(model.parameters()).device
    found: Tensor = model(input_ids=sample.to(device), use_cache=False).logits.float()
    return found
