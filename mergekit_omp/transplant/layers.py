"""What the output's config says of its layers, where `slices:` put them together anew."""

from __future__ import annotations

import transformers
from mergekit.config import MergeConfiguration


def set_layers(
    out_config: transformers.PretrainedConfig,
    base_config: transformers.PretrainedConfig,
    config: MergeConfiguration,
) -> None:
    """Set the number of layers, and give every setting that has one entry a layer as many.

    mergekit sets the number for the architectures that it has a definition of, and no other key.
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
    # Names such as n_layer stand for it in some families.
    text.num_hidden_layers = len(kept)
    for key, value in per_layer.items():
        if key.endswith(("layer_types", "_per_layer", "_layers")) and max(kept) < before:
            setattr(text, key, [value[layer] for layer in kept])
