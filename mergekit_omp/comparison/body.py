"""The body that all candidates share: merged once, and put together with the rows of each."""

from __future__ import annotations

import psutil
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from mergekit_omp.errors import TransplantError
from mergekit_omp.evaluation.models import Loading, check_whole, on_device
from mergekit_omp.outside.faults import of_library
from mergekit_omp.plugin.in_memory import MergeInMemory


class Body:
    """All tensors of a merge's output but those of the vocabulary, in the processor's memory."""

    def __init__(self, merge: MergeInMemory, loading: Loading):
        """Merge them. Raises TransplantError where they do not fit into memory."""
        self._loading = loading
        self._check_memory(merge)
        self._tensors = {name: self._widened(tensor) for name, tensor in merge.other_tensors()}

    def with_rows(
        self, merge: MergeInMemory, rows: dict[str, Tensor], name: str
    ) -> PreTrainedModel:
        """The model that the output's files would give, on the device that texts are read on.

        The body's tensors are not copied, unless the device or dtype is another.
        """
        config = _as_read(merge.config)
        widened = {tensor: self._widened(values) for tensor, values in rows.items()}
        with of_library(
            f"The output of {name} cannot be loaded as a model",
            "Compare causal language models that transformers knows.",
        ):
            model, info = type(_without_weights(config, self._loading)).from_pretrained(
                None,
                config=config,
                state_dict={**self._tensors, **widened},
                dtype=self._loading.torch_dtype(),
                output_loading_info=True,
            )
        check_whole(info, f"the output of {name}")
        return on_device(model, name, self._loading)

    def _widened(self, tensor: Tensor) -> Tensor:
        """The tensor in float32 where it is read so: exact, and done once for all candidates."""
        narrow = tensor.is_floating_point() and tensor.element_size() < 4
        return tensor.float() if narrow and self._loading.torch_dtype() is torch.float32 else tensor

    def _check_memory(self, merge: MergeInMemory) -> None:
        needed = size_in_memory(_as_read(merge.config), self._loading)
        free = psutil.virtual_memory().available
        if needed > free:
            raise TransplantError(
                f"The merged model takes {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB "
                "are free. Compare on a machine with more, write --dtype bfloat16, or merge with "
                "each method in turn and use mergekit-omp evaluate on a device that holds the "
                "model."
            )


def size_in_memory(config: PretrainedConfig, loading: Loading) -> int:
    """Bytes of a whole model, as it is read."""
    with of_library(
        "The config makes no causal language model",
        "Compare causal language models that transformers knows.",
    ):
        model = _without_weights(config, loading)
    dtype = loading.torch_dtype()
    if not isinstance(dtype, torch.dtype):
        dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    return sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize


def _as_read(config: PretrainedConfig) -> PretrainedConfig:
    """The config as it would be read from the output's config.json."""
    return type(config).from_dict(config.to_dict())


def _without_weights(config: PretrainedConfig, loading: Loading) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, trust_remote_code=loading.trust_remote_code
        )
    return model
