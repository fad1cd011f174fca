"""A causal language model whose input also knows the n-grams that end in each token.

Over-Encoding, as in "Over-Tokenized Transformers" (Huang et al. 2025, arXiv 2501.16975): to the
embedding of a token are added rows of hashed tables for the 2-grams, 3-grams, ... that end in it:

    E[x_t] + sum over tables of T[(sum over j < order of x_(t-j) V^j) mod m] W

Over-Decoding adds heads for the tokens after the next (over_decoding.py).

These files need torch and transformers alone, and are written beside the weights of every model that
has such tables (`trust_remote_code=True`); `import mergekit_omp.growth` registers the same classes.
`OverEncoded<Class>` is a class of transformers with tables in front: `OverEncodedLlamaForCausalLM`.

The ids before a token must be known. `generate` hands them over; where a caller leaves them out,
as an engine with a cache of its own does, there is an error and never a wrong answer.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig

from .over_decoding import FurtherHead, OverDecodes, OverDecoding

MODEL_TYPE = "over_encoded"
PREFIX = "OverEncoded"
_UNKNOWN = (
    "{what}: the ids before it are not known, and this model's input depends on the {before} before "
    "each token. Give whole sequences, `ngrams=` (see `windows` in over_encoding.py), or use "
    "`generate`, which does so."
)


def windows(
    ids: torch.Tensor,
    longest: int,
    mask: torch.Tensor | None = None,
    starts: torch.Tensor | None = None,
) -> torch.Tensor:
    """The ids that end in each token, last first: [batch, length, longest], -1 before the start.

    Args:
        ids: [batch, length], from the start of each sequence.
        longest: how many ids, the token's own among them.
        mask: [batch, length], 0 for padding, which counts as before the start.
        starts: [batch, length], true for tokens that begin a sequence, where several are packed.
    """
    own = ids if mask is None else torch.where(mask.to(torch.bool), ids, -1)
    columns = [own]
    goes_on = own >= 0
    for back in range(1, min(longest, ids.shape[1] + 1)):
        if starts is not None:
            begun = nn.functional.pad(
                starts[:, : ids.shape[1] - back + 1], (back - 1, 0), value=True
            )
            goes_on = goes_on & ~begun
        earlier = nn.functional.pad(own[:, : ids.shape[1] - back], (back, 0), value=-1)
        goes_on = goes_on & (earlier >= 0)
        columns.append(torch.where(goes_on, earlier, -1))
    columns += [torch.full_like(own, -1)] * (longest - len(columns))
    return torch.stack(columns, dim=-1)


class NgramTable(nn.Embedding):
    """One row for each value of the hash; zero at first, so that a grown model is what it was."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


class Projection(nn.Linear):
    """From a table's width to the model's; random at first, or nothing could be learned."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.in_features**-0.5)


class ExactRows(nn.Module):
    """Rows for chosen n-grams, found by their ids and not by a hash that others may share.

    `keys` are sorted; `ngrams` are the ids in the same order, last first, -1 past the end; `rows`
    are the numbers of their rows in `weight`. Where the settings name the ids of `digits`, n-grams
    of digits count only where they end a group of so many, from the left of the number.
    """

    keys: torch.Tensor
    ngrams: torch.Tensor
    rows: torch.Tensor

    def __init__(self, settings: dict[str, Any], dim: int):
        super().__init__()
        entries, self.longest = settings["entries"], settings["longest"]
        self.share, self.own = settings["share"], settings["own"]
        self.digits: list[int] = settings.get("digits", [])
        self.group: int = settings.get("group", 1)
        self.looks_back = max(self.longest, settings.get("digits_back", 0) + 1)
        self.register_buffer("keys", torch.zeros(entries, dtype=torch.int64))
        self.register_buffer("ngrams", torch.full((entries, self.longest), -2, dtype=torch.int64))
        self.register_buffer("rows", torch.zeros(entries, dtype=torch.int64))
        self.weight = nn.Parameter(torch.zeros(settings["rows"], dim))

    @staticmethod
    def key_of(ngrams: torch.Tensor) -> torch.Tensor:
        """One number for each n-gram of [..., longest]; int64 arithmetic wraps, which is meant."""
        key = torch.zeros_like(ngrams[..., 0])
        for place in range(ngrams.shape[-1]):
            key = key * 6364136223846793005 + ngrams[..., place] + 2
        return key

    def find(self, known: torch.Tensor) -> torch.Tensor:
        """The row of the longest n-gram that ends in each token, -1 for none: [batch, length]."""
        found = torch.full_like(known[..., 0], -1)
        in_run = torch.zeros_like(found)
        if self.digits:
            is_digit = (known[..., None] == known.new_tensor(self.digits)).any(-1)
            in_run = is_digit.long().cumprod(-1).sum(-1)
        for length in range(2, self.longest + 1):
            wanted = known[..., : self.longest].clone()
            wanted[..., length:] = -1
            at = torch.searchsorted(self.keys, self.key_of(wanted)).clamp_(max=len(self.keys) - 1)
            same = (self.ngrams[at] == wanted).all(-1) & (known[..., length - 1] >= 0)
            if self.digits:
                # Past what is looked back over, nobody knows where the groups begin.
                ends = ((in_run - 1) % self.group + 1 == length) & (in_run < self.looks_back)
                same &= (in_run < length) | ends
            found = torch.where(same, self.rows[at], found)
        return found

    def forward(self, embedded: torch.Tensor, known: torch.Tensor, scale: Any) -> torch.Tensor:
        """Embeddings with rows in their place. `scale`: by which the embedding multiplies its own."""
        found = self.find(known)
        rows = nn.functional.embedding(found.clamp(min=0), self.weight).to(embedded.dtype) * scale
        mixed = rows * self.share + embedded * self.own
        return torch.where((found >= 0)[..., None], mixed, embedded)


class OverEncoding(nn.Module):
    """What n-grams add to the embeddings of tokens."""

    def __init__(self, settings: dict[str, Any], dim: int):
        super().__init__()
        self.hash_base = settings["hash_base"]
        self.shapes: list[dict[str, int]] = settings["tables"]
        self.longest = max([1, *(shape["order"] for shape in self.shapes)])
        self.tables = nn.ModuleList(
            NgramTable(shape["rows"], settings["width"]) for shape in self.shapes
        )
        self.projections = nn.ModuleList(
            Projection(settings["width"], dim, bias=False) for _ in self.shapes
        )
        self.exact: ExactRows | None = None
        if exact := settings.get("exact"):
            self.exact = ExactRows(exact, dim)
            self.longest = max(self.longest, self.exact.looks_back)

    def hashed(self, known: torch.Tensor, order: int, rows: int) -> torch.Tensor:
        """The row of each token's n-gram; ids before the start count as 0."""
        total, power = torch.zeros_like(known[..., 0]), 1
        for back in range(order):
            total = (total + known[..., back].clamp(min=0) * power) % rows
            power = power * self.hash_base % rows
        return total

    def forward(self, embedded: torch.Tensor, known: torch.Tensor, scale: Any = 1) -> torch.Tensor:
        """Embeddings with what n-grams add. `scale`: by which the embedding multiplies its rows.

        Args:
            embedded: [batch, length, dim], the tokens' own.
            known: [batch, length, longest], as from `windows`.
        """
        if self.exact is not None:
            embedded = self.exact(embedded, known, scale)
        for shape, table, projection in zip(
            self.shapes, self.tables, self.projections, strict=True
        ):
            rows = table(self.hashed(known, shape["order"], shape["rows"]))
            embedded = embedded + projection(rows).to(embedded.dtype)
        return embedded


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
        scale = getattr(embedding, "embed_scale", 1)
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
        (base.config_class,),
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
