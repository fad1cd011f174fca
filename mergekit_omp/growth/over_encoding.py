"""A causal language model whose input also knows the n-grams that end in each token.

ngrams.py adds to the embedding of each token what its n-grams say (Over-Encoding), and
over_decoding.py has heads for the tokens after the next (Over-Decoding).

These files need torch and transformers alone, and are written beside the weights of every model that
has such tables (`trust_remote_code=True`); `import mergekit_omp.growth` registers the same classes.
`OverEncoded<Class>` is a class of transformers with tables in front: `OverEncodedLlamaForCausalLM`.

The ids before a token must be known. `generate` hands them over; where a caller leaves them out,
as an engine with a cache of its own does, there is an error and never a wrong answer.
"""

from __future__ import annotations

import functools
import inspect
import json
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig

from .ngrams import ExactRows, NgramTable, OverEncoding, Projection, windows
from .over_decoding import FurtherHead, OverDecodes, OverDecoding

MODEL_TYPE = "over_encoded"
PREFIX = "OverEncoded"
_UNKNOWN = (
    "{what}: the ids before it are not known, and this model's input depends on the {before} before "
    "each token. Give whole sequences, `ngrams=` (see `windows` in ngrams.py), or use "
    "`generate`, which does so."
)


def _refuse_bare_call(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """The input embedding alone would answer without the n-grams, so only the model may call it."""
    if kwargs.pop("ngrams_follow", False):
        return args, kwargs
    raise RuntimeError(
        "The input embedding of an over-encoded model was called by itself, or by the model inside "
        "it: what its n-grams add would be missing. Call the model as a whole."
    )


class OverEncodedGenerationMixin(OverDecodes, GenerationMixin):
    """What is in front of a class of transformers; see `over_encoded`."""

    def __init__(self, config: PretrainedConfig, *args: Any, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        embedding = self.get_input_embeddings()
        self.over_encoding = OverEncoding(config.over_encoding, embedding.embedding_dim)
        embedding.register_forward_pre_hook(_refuse_bare_call, with_kwargs=True)
        self.over_decoding: OverDecoding | None = None
        if heads := config.over_encoding.get("heads"):
            shape = self.get_output_embeddings().weight.shape
            softcap = getattr(config, "final_logit_softcapping", None)
            self.over_decoding = OverDecoding(heads, shape[1], shape[0], softcap)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (NgramTable, Projection)):
            module.reset_parameters()
        elif isinstance(module, FurtherHead):
            module.start()
        elif not isinstance(module, (ExactRows, OverEncoding)):
            super()._init_weights(module)

    def set_input_embeddings(self, value: nn.Module) -> None:
        super().set_input_embeddings(value)
        if _refuse_bare_call not in value._forward_pre_hooks.values():
            value.register_forward_pre_hook(_refuse_bare_call, with_kwargs=True)

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        given = inputs["input_ids"].shape[1]
        if _cached(kwargs.get("past_key_values")) + given > input_ids.shape[1]:
            raise self._unknown(
                "There is a cache, and `generate` was given only the ids after it (which "
                "`prefill_chunk_size` does too)"
            )
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim != 2:
            raise self._unknown("The `attention_mask` is not [batch, length]")
        mask = None if mask is None else mask[:, : input_ids.shape[1]]
        known = windows(input_ids, self.over_encoding.longest, mask)
        inputs["ngrams"] = known[:, -given:].contiguous()
        return inputs

    def ngrams_of(self, ids: torch.Tensor) -> torch.Tensor:
        """`ngrams` of whole sequences without padding."""
        return windows(ids, self.over_encoding.longest)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """For an optimizer: no decay of tables, whose rows are seldom seen, nor of vectors."""
        named = [item for item in self.named_parameters() if item[1].requires_grad]
        decayed = [p for n, p in named if p.ndim > 1 and not n.startswith("over_encoding.tables.")]
        chosen = set(map(id, decayed))
        return [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": [p for _, p in named if id(p) not in chosen], "weight_decay": 0.0},
        ]

    def _with_ngrams(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of the class in front of which this is: embeddings in the place of ids."""
        ids, known = inputs.pop("input_ids", None), inputs.pop("ngrams", None)
        if inputs.get("inputs_embeds") is not None or ids is None:
            raise ValueError(
                "An over-encoded model needs `input_ids`: from `inputs_embeds` nobody can tell which "
                "n-grams they stand for."
            )
        if known is None:
            known = self._known(ids, inputs)
        elif known.shape != (*ids.shape, self.over_encoding.longest):
            raise ValueError(
                f"`ngrams` has the shape {tuple(known.shape)}, not "
                f"{(*ids.shape, self.over_encoding.longest)}."
            )
        embedding = self.get_input_embeddings()
        embedded = embedding(ids, ngrams_follow=True)
        scale = getattr(embedding, "embed_scale", None)
        return {**inputs, "inputs_embeds": self.over_encoding(embedded, known, scale)}

    def _known(self, ids: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """What is before each token, from what the caller gave. Raises where that does not tell."""
        mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        if past := _cached(inputs.get("past_key_values")):
            raise self._unknown(f"There is a cache of {past} tokens")
        if positions is None and any(name.startswith("cu_seq") for name in inputs):
            raise self._unknown("Sequences are packed, and there are no `position_ids`")
        if not (mask is None or (isinstance(mask, torch.Tensor) and mask.ndim == 2)):
            if positions is None:
                raise self._unknown(
                    "The `attention_mask` is not [batch, length], and there are no `position_ids`"
                )
            mask = None
        if mask is not None and mask.shape[1] != ids.shape[1]:
            raise self._unknown(f"There are {ids.shape[1]} ids and a mask of {mask.shape[1]}")
        if positions is None:
            return windows(ids, self.over_encoding.longest, mask)
        if positions.ndim != 2:
            raise self._unknown(f"`position_ids` has {positions.ndim} dimensions, not 2")
        positions = positions.expand(ids.shape[0], -1)
        attended = torch.ones_like(positions, dtype=torch.bool) if mask is None else mask.bool()
        before = nn.functional.pad(positions[:, :-1], (1, 0), value=-1)
        follows = nn.functional.pad(attended[:, :-1], (1, 0), value=False) & (
            positions == before + 1
        )
        lost = attended & (positions != 0) & ~follows
        if lost.any():
            raise self._unknown(f"A token is at position {int(positions[lost][0])}")
        return windows(ids, self.over_encoding.longest, mask, positions == 0)

    def _unknown(self, what: str) -> ValueError:
        count = self.over_encoding.longest - 1
        return ValueError(_UNKNOWN.format(what=what, before=f"{count} ids" if count != 1 else "id"))


def _cached(past: Any) -> int:
    """How many tokens a cache holds."""
    if past is None:
        return 0
    return int(past.get_seq_length() if hasattr(past, "get_seq_length") else past[0][0].shape[-2])


_GUARD = ", and n-grams: load this with AutoModelForCausalLM and trust_remote_code=True"


def guarded(content: dict[str, Any], config: PretrainedConfig) -> dict[str, Any]:
    """A config.json that other classes cannot read: they would leave out tables without a word.

    Its hidden size is followed by what to do, so that a class which wants a number fails.
    """
    key = config.attribute_map.get("hidden_size", "hidden_size")
    return {**content, key: f"{getattr(config, key)}{_GUARD}"}


class _Guarded:
    """A config that is `guarded` on disk."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        content = {
            key: int(value.removesuffix(_GUARD))
            if isinstance(value, str) and value.endswith(_GUARD)
            else value
            for key, value in config_dict.items()
        }
        return super().from_dict(content, **kwargs)  # type: ignore[misc]

    def to_json_file(self: Any, json_file_path: Any, use_diff: bool = True) -> None:
        content = json.loads(self.to_json_string(use_diff=use_diff))
        with open(json_file_path, "w", encoding="utf-8") as file:
            file.write(json.dumps(guarded(content, self), indent=2, sort_keys=True) + "\n")


class OverEncodedConfig(PretrainedConfig):
    """Stands for the config of whichever class is wrapped: reading it gives that class's."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        wrapped = over_encoded(config_dict["over_encoding"]["wraps"])
        return wrapped.config_class.from_dict(config_dict, **kwargs)


@functools.cache
def over_encoded(name: str) -> Any:
    """The class `OverEncoded<name>`, for a class of transformers by the name of `name`."""
    base = getattr(transformers, name)
    config_class: Any = type(
        f"{PREFIX}{name}Config",
        (_Guarded, base.config_class),
        {
            "__module__": __name__,
            "__annotations__": {"over_encoding": "dict | None"},
            "model_type": MODEL_TYPE,
            "over_encoding": None,
        },
    )
    parameters = list(inspect.signature(base.forward).parameters.values())
    names = [parameter.name for parameter in parameters]

    @functools.wraps(base.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = {**dict(zip(names[1:], args, strict=False)), **kwargs}
        return self.with_further_loss(base.forward, self._with_ngrams(inputs))

    ngrams = inspect.Parameter("ngrams", inspect.Parameter.KEYWORD_ONLY, default=None)
    rest = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
    shown = [p for p in parameters if p not in rest]
    forward.__signature__ = inspect.Signature([*shown, ngrams, *rest])  # type: ignore[attr-defined]
    model_class: Any = type(
        PREFIX + name,
        (OverEncodedGenerationMixin, base, GenerationMixin),
        {
            "__module__": __name__,
            "config_class": config_class,
            "forward": forward,
            "_no_split_modules": [*(base._no_split_modules or ()), "OverEncoding", "FurtherHead"],
        },
    )
    # With these, saving writes this file and `auto_map` again.
    config_class.register_for_auto_class("AutoConfig")
    model_class.register_for_auto_class("AutoModelForCausalLM")
    AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
    _convert_as(name, base.config_class.model_type)
    return model_class


def _convert_as(name: str, model_type: str) -> None:
    """Have weights that transformers keeps otherwise than checkpoints do (experts) read as before."""
    try:
        from transformers import conversion_mapping
    except ImportError:  # transformers 4 keeps them as they are
        return
    for known in (name, model_type):
        mapping = conversion_mapping.get_checkpoint_conversion_mapping(known)
        if mapping is not None:
            conversion_mapping.register_checkpoint_conversion_mapping(
                PREFIX + name, mapping, overwrite=True
            )
            return


def register() -> None:
    """Have transformers know these classes without remote code."""
    AutoConfig.register(MODEL_TYPE, OverEncodedConfig, exist_ok=True)


def __getattr__(name: str) -> Any:
    """`OverEncodedLlamaForCausalLM` and its `...Config`, by which `auto_map` names them."""
    wrapped = name.removeprefix(PREFIX).removesuffix("Config")
    if not name.startswith(PREFIX) or not hasattr(transformers, wrapped):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = over_encoded(wrapped)
    return found.config_class if name.endswith("Config") else found
