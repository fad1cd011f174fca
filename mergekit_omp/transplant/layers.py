"""The settings per layer in the output's config, for merges that stack `slices:` of layers."""

from __future__ import annotations

import transformers
from mergekit.config import MergeConfiguration


def set_layers(
    out_config: transformers.PretrainedConfig,
    base_config: transformers.PretrainedConfig,
    config: MergeConfiguration,
) -> None:
    """Set the number of layers in `out_config`, and pick the entries of lists with one per layer.

    mergekit sets only the number, and only for architectures that it has a definition of.
    """
    if not config.slices:
        return
    text, base = out_config.get_text_config(), base_config.get_text_config()
    before = getattr(base, "num_hidden_layers", None)
    if before is None:
        return
    kept = [layer for piece in config.slices for layer in range(*piece.sources[0].layer_range)]
    per_layer = {
        key: value
        for key, value in vars(base).items()
        if isinstance(value, list) and len(value) == before
    }
    # transformers maps this name to the family's own, such as n_layer.
    text.num_hidden_layers = len(kept)
    for key, value in per_layer.items():
        if key.endswith(("layer_types", "_per_layer", "_layers")) and max(kept) < before:
            setattr(text, key, [value[layer] for layer in kept])
