"""What a hypernetwork's `config.json` says of its shape, and which switches it may not have on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODEL_TYPE = "zett_hypernetwork"

_OFF = (
    "hn_embed_target_priors",
    "hn_add_inter_token_attention",
    "hn_concat_last_hidden_state",
    "hn_language_adapter_bottleneck_dim",
)
"""Switches of experiments that no published hypernetwork has on."""


@dataclass(frozen=True)
class HypernetworkConfig:
    """The sizes and switches of one hypernetwork."""

    vocabulary: int
    """Ids of the base's own vocabulary; those above are the hypernetwork's."""
    width: int
    """Numbers in a row of the base."""
    separate: bool
    """Whether it is for bases whose head is a matrix of its own."""
    hidden: int
    intermediate: int
    layers: int
    heads: int
    longest: int
    """Pieces of a token that are read; further ones are cut off."""
    extra: int | None
    """Rows of its own for pieces that the base lacks; None where the config does not say."""
    rescaled: bool
    single_head: bool
    """One projection for both of a token's rows."""
    predicts_bias: bool
    languages: tuple[str, ...]
    """Its languages, in the order of their embeddings; empty where it has none."""
    base: str | None
    """The id of the model that it was trained for, where the config says it."""

    @property
    def read_width(self) -> int:
        """Numbers that are read of a piece: both of its rows where the base has two."""
        return 2 * self.width if self.separate else self.width

    def language(self, name: str | None, source: str) -> int | None:
        """The place of a language among the embeddings, None where there are none.

        Raises ValueError for a language that is missing, unknown or superfluous.
        """
        if not self.languages:
            if name is not None:
                raise ValueError(
                    f"the hypernetwork {source} has no languages: leave `language: {name}` out"
                )
            return None
        known = ", ".join(self.languages)
        if name is None:
            raise ValueError(f"the hypernetwork {source} needs a `language`: write one of {known}")
        if name not in self.languages:
            raise ValueError(
                f"the hypernetwork {source} has no language {name!r}: write one of {known}"
            )
        return self.languages.index(name)


def read_config(found: Mapping[str, Any], file: str) -> HypernetworkConfig:
    """The config from a parsed `config.json`; `file` is its name in messages.

    Raises ValueError, naming file, key, what was expected and what was found.
    """
    keys = _Keys(found, file)
    keys.must_be("model_type", (MODEL_TYPE,))
    keys.must_be("hn_model_type", ("roberta",))
    for key in _OFF:
        keys.must_be(key, (False, 0, None))
    if not keys.switch("hn_embed_using_source_embeddings", default=False):
        raise keys.error("hn_embed_using_source_embeddings", "true")
    hidden = keys.whole("hn_hidden_size")
    heads = max(1, hidden // 64)
    if keys.has("hn_num_attention_heads"):
        heads = keys.whole("hn_num_attention_heads")
    if hidden % heads:
        raise keys.error("hn_num_attention_heads", f"a divisor of hn_hidden_size ({hidden})", heads)
    return HypernetworkConfig(
        vocabulary=keys.whole("original_vocab_size"),
        width=keys.whole("n_embd", 768),
        separate=keys.switch("separate_out_embeddings", default=False),
        hidden=hidden,
        intermediate=keys.whole("hn_intermediate_size"),
        layers=keys.whole("hn_n_layers", 3),
        heads=heads,
        longest=keys.whole("hn_surface_maxlen", 16),
        extra=keys.whole("hn_n_extra_tokens", least=0) if keys.has("hn_n_extra_tokens") else None,
        rescaled=keys.switch("hn_rescale_embeddings", default=False),
        single_head=keys.switch("hn_single_head", default=False),
        predicts_bias=keys.switch("hn_predict_bias", default=True),
        languages=keys.names("langs") if keys.switch("hn_embed_lang_id", default=False) else (),
        base=keys.text("_name_or_path"),
    )


class _Keys:
    """Keys of a config; one that is null counts as missing."""

    def __init__(self, found: Mapping[str, Any], file: str):
        self._found = found
        self._file = file

    def has(self, key: str) -> bool:
        return self._found.get(key) is not None

    def error(self, key: str, expected: str, found: object = None) -> ValueError:
        value = repr(found if found is not None else self._found[key]) if key in self._found else ""
        return ValueError(f"{self._file}: {key} must be {expected}; found {value or 'no such key'}")

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self._found.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.error(key, f"a whole number of at least {least}")
        return value

    def switch(self, key: str, *, default: bool) -> bool:
        value = self._found.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        value = self._found.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(n, str) for n in value):
            raise self.error(key, "a list of languages, since hn_embed_lang_id is true")
        return tuple(value)

    def text(self, key: str) -> str | None:
        value = self._found.get(key)
        return value if isinstance(value, str) and value else None

    def must_be(self, key: str, allowed: tuple[object, ...]) -> None:
        if self._found.get(key) is not None and self._found[key] not in allowed:
            wanted = str(allowed[0]).lower() if allowed[0] is False else repr(allowed[0])
            raise self.error(key, f"{wanted} for a hypernetwork that can be run here")
