"""Checks that a checkpoint's tensors have the shapes that its config asks for.

Otherwise the merge would succeed, and its output could not be loaded.
"""

from __future__ import annotations

from mergekit.common import ModelReference

from mergekit_omp.errors import TransplantError
from mergekit_omp.models.checkpoint import stored_tensors
from mergekit_omp.models.known_model import known_model, without_data
from mergekit_omp.outside.faults import of_library


def check_shapes(model: ModelReference, *, trust_remote_code: bool) -> None:
    """Raise TransplantError where tensors are missing, or have other shapes than the config says.

    Not checked: vocabulary tensors, for which `check_vocabulary_tensor` is; tensors that
    transformers stacks, splits or drops; and models whose code comes with them, unless
    `trust_remote_code` allows to run it.
    """
    config = model.config(trust_remote_code=trust_remote_code)
    if getattr(config, "auto_map", None) and not trust_remote_code:
        return
    with of_library(
        f"transformers cannot put {model} together from its config.json",
        "Put the model's own config.json there, or name another model.",
    ):
        without_data(config, trust_remote_code=trust_remote_code)
    known = known_model(config, trust_remote_code=trust_remote_code)
    if known is None:
        return
    tensors = stored_tensors(model)
    names = known.names(tensors)
    missing = known.lacks({new.name for new in names.values() if new}, inputs=True)
    if missing:
        raise TransplantError(
            f"The weights of {model} lack {missing[0]}, which a model of its config.json has. Copy "
            "or download the model again, whole, or put its own config.json there."
        )
    for name, new in names.items():
        if new is None or not new.whole or new.name in known.axes:
            continue
        found, expected = list(tensors[name].shape), list(known.shape(new.name))
        if found != expected:
            raise TransplantError(
                f"{name} of {model} has the shape {found}, and its config.json says {expected}: "
                "weights and config do not belong together. Put the model's own config.json there."
            )
