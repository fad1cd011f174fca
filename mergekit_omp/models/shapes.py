"""A model's tensors must have the shapes that its config gives them, or nothing loads the output."""

from __future__ import annotations

from collections.abc import Mapping

from mergekit.common import ModelReference
from torch import Tensor
from transformers import PretrainedConfig

from mergekit_omp.errors import TransplantError
from mergekit_omp.models.known_model import known_model


def check_shapes(
    model: ModelReference,
    config: PretrainedConfig,
    tensors: Mapping[str, Tensor],
    *,
    trust_remote_code: bool,
) -> None:
    """Refuse a checkpoint that does not belong to its config, whatever its number of rows.

    Tensors that transformers stacks, splits or does not read are not looked at.
    """
    known = known_model(config, trust_remote_code=trust_remote_code)
    if known is None:
        return
    for name, new in known.names(tensors).items():
        if new is None or not new.whole:
            continue
        found, expected = list(tensors[name].shape), list(known.shape(new.name))
        shown = f"{found}, and its config.json says {expected}"
        if new.name in known.axes and len(found) == len(expected):
            # The number of rows is the tokenizer's affair.
            del found[known.axes[new.name]], expected[known.axes[new.name]]
        if found != expected:
            raise TransplantError(
                f"{name} of {model} has the shape {shown}: weights and config do not belong "
                "together. Put the model's own config.json there."
            )
