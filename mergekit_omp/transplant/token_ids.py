"""Token ids in settings: each id of the base's is replaced by the output's id for the same token.

Roles (bos, eos, pad, ...) are set from the output's tokenizer. The keys that hold ids were
collected from the config and generation classes of transformers 4.57 and 5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import transformers

from mergekit_omp.vocabulary import Alignment

ALWAYS = ("bos", "eos", "pad")
WHERE_KNOWN = ("unk", "sep", "cls", "mask")
_ROLE_KEYS = frozenset(f"{role}_token_id" for role in ALWAYS + WHERE_KNOWN)

_ID_KEY = re.compile(r"(?:^|_)tokens?_(?:ids?|index|indices)$|^(?:begin_)?suppress_tokens$")
_MORE_ID_KEYS = frozenset(
    (
        # XLM and FlauBERT,
        *("bos_index", "eos_index", "pad_index", "unk_index", "mask_index"),
        # and vision-language models with names of their own.
        *("im_start_id", "im_end_id", "im_newline_id", "newline_id"),
        *("image_start_id", "image_end_id", "image_patch_id", "slice_start_id", "slice_end_id"),
    )
)
_OTHER_VOCABULARY = re.compile(r"^(?:codec|codebook|tts_codec|t2u|blank|unit)_")
"""Keys with ids of other vocabularies, such as audio codes."""
_SEQUENCES = frozenset(("bad_words_ids", "force_words_ids"))
_BY_NAME = frozenset(("lang_to_id", "task_to_id", "vocabulary_map"))
"""Keys that hold a mapping from names to ids."""
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)


class Moves:
    """The output's id for each token id of the base, by the alignment of the two."""

    def __init__(self, alignment: Alignment):
        to = np.flatnonzero(alignment.source >= 0)
        # Where several output tokens copy one row, the first of them.
        self._moved = dict(zip(alignment.source[to[::-1]].tolist(), to[::-1].tolist(), strict=True))
        self._strings = alignment.model.strings

    def __call__(self, token_id: int) -> int | None:
        """The output's id for a token id of the base; None where it has no such token."""
        return self._moved.get(token_id)

    def named(self, token_id: int) -> str:
        """A token id of the base for a message: `id 5 ('<s>')`."""
        token = self._strings[token_id] if 0 <= token_id < len(self._strings) else None
        return f"id {token_id}" + (f" ({token!r})" if token is not None else "")


def set_config_ids(
    config: transformers.PretrainedConfig,
    base: transformers.PretrainedConfig,
    tokenizer: transformers.PreTrainedTokenizerBase,
    moves: Moves,
) -> list[str]:
    """Set all token ids in `config`, the output's, at every level.

    Ids of roles come from `tokenizer`. Every other id is that of the same key in `base`, the base's
    own config, moved by `moves`: what `config` says of it does not count, so that it may have been
    planned with before. Returns a warning for each key whose token the output does not have.
    """
    warnings: list[str] = []
    text = config.get_text_config()
    for level in [config] if text is config else [config, text]:
        for role in ALWAYS + WHERE_KNOWN:
            key = f"{role}_token_id"
            value = getattr(tokenizer, key, None)
            if role in ALWAYS or value is not None or hasattr(level, key):
                if level is config and text is not config and not hasattr(level, key):
                    continue
                setattr(level, key, value)
    _move_level(config, base, base.get_text_config(), moves, "", warnings)
    return warnings


def _move_level(
    config: transformers.PretrainedConfig,
    base: transformers.PretrainedConfig,
    base_text: transformers.PretrainedConfig,
    moves: Moves,
    where: str,
    warnings: list[str],
) -> None:
    roles_are_set = base is base_text or not where
    own_vocabulary = not roles_are_set and getattr(base, "vocab_size", None) is not None
    for key, value in list(vars(base).items()):
        if isinstance(value, transformers.PretrainedConfig):
            level = getattr(config, key, None)
            if isinstance(level, transformers.PretrainedConfig):
                _move_level(level, value, base_text, moves, f"{where}{key}.", warnings)
            continue
        if own_vocabulary or key.startswith("_") or (roles_are_set and key in _ROLE_KEYS):
            continue
        lost: list[int] = []
        asked: list[int] = []

        def of_output(token: int, asked: list[int] = asked) -> int | None:
            asked.append(token)
            return moves(token)

        new = moved(key, value, of_output, lost, keep_lost=True)
        if asked:
            setattr(config, key, new)
        for token in lost:
            warnings.append(
                f"config key {where}{key} is the base's token {moves.named(token)}, which the "
                "output's tokenizer does not have; it is left as it is and must be set by hand"
            )


def processor_settings(
    files: Mapping[str, dict[str, Any]], moves: Moves
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The base's processor files with the token ids in them moved; and warnings."""
    moved_files, warnings = {}, []
    for name, content in files.items():
        lost: list[int] = []
        new = moved("", content, moves, lost, keep_lost=True)
        if content:
            moved_files[name] = new
        for token in lost:
            warnings.append(
                f"{name} names the base's token {moves.named(token)}, which the output's "
                "tokenizer does not have; it is left as it is and must be set by hand"
            )
    return moved_files, warnings


def generation_settings(
    base: Mapping[str, Any],
    tokenizer: transformers.PreTrainedTokenizerBase,
    moves: Moves,
    *,
    stops: Iterable[int],
    suppressed: Iterable[int],
) -> tuple[dict[str, Any], list[str]]:
    """The base's generation settings with the output's token ids; and warnings.

    `stops` are further ids of the output that end a text, beside its eos. `suppressed` are
    control tokens that hold the same row as a more telling one (pad beside eos, where the base
    has one token for both): as likely as that one, they must not be generated in its place.
    """
    settings: dict[str, Any] = {}
    warnings: list[str] = []
    for key, value in base.items():
        if key in _ROLE_KEYS:
            continue
        lost: list[int] = []
        try:
            new = moved(key, value, moves, lost, keep_lost=False)
        except ValueError as error:
            warnings.append(
                f"generation_config.json of the base: {key} {error}; the output goes without it"
            )
            continue
        if lost:
            tokens = ", ".join(moves.named(token) for token in lost[:4])
            more = f" and {len(lost) - 4} more" if len(lost) > 4 else ""
            warnings.append(
                f"generation_config.json of the base: {key} names {tokens}{more}, which the "
                "output's tokenizer does not have; the output goes without"
            )
        if new is not None or value is None:
            settings[key] = new
    for role in ALWAYS:
        value = getattr(tokenizer, f"{role}_token_id", None)
        if value is not None:
            settings[f"{role}_token_id"] = value
    eos = tokenizer.eos_token_id
    ends = list(dict.fromkeys([*([] if eos is None else [eos]), *stops]))
    if ends:
        settings["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    held = {*(settings.get("suppress_tokens") or ()), *suppressed}
    held -= {
        i for key in ("forced_bos_token_id", "forced_eos_token_id") for i in _ids(settings.get(key))
    }
    if held:
        settings["suppress_tokens"] = sorted(held)
    settings["transformers_version"] = transformers.__version__
    return settings, warnings


def base_stops(settings: Iterable[Mapping[str, Any]], moves: Moves) -> list[int]:
    """The output's ids for the tokens in `eos_token_id` of the base's settings."""
    found = [i for each in settings for i in _ids(each.get("eos_token_id"))]
    return [new for new in map(moves, dict.fromkeys(found)) if new is not None]


def moved(
    key: str, value: Any, moves: Callable[[int], int | None], lost: list[int], *, keep_lost: bool
) -> Any:
    """The value of the setting `key` with its token ids moved.

    Ids of tokens that the output lacks are added to `lost`. With `keep_lost` they stay in the
    value; without, they are left out of lists, a sequence that contains one is dropped, and a
    single id becomes None. Raises ValueError where the value is not of the type that its key asks
    for.
    """

    def one(token: int) -> int | None:
        new = moves(token) if token >= 0 else token
        if new is None:
            lost.append(token)
            return token if keep_lost else None
        return new

    if key in _SEQUENCES:
        return _sequences(value, one)
    if key == "sequence_bias":
        return _biases(value, one)
    if key == "forced_decoder_ids":
        return _pairs(value, one)
    if key in _BY_NAME and isinstance(value, dict):
        new = {name: one(i) if _is_id(i) else i for name, i in value.items()}
        return {name: i for name, i in new.items() if i is not None}
    if _holds_ids(key):
        if _is_id(value):
            return one(value)
        if isinstance(value, (list, tuple)) and all(map(_is_id, value)):
            return [new for new in map(one, value) if new is not None]
        if value is not None and not isinstance(value, (bool, str, dict, list, tuple)):
            raise ValueError(f"is {value!r}, and should be a token id or a list of them")
    if isinstance(value, dict):
        return {
            name: moved(str(name), inner, moves, lost, keep_lost=keep_lost)
            for name, inner in value.items()
        }
    return value


def _holds_ids(key: str) -> bool:
    known = key in _MORE_ID_KEYS or _ID_KEY.search(key) is not None
    return known and not _OTHER_VOCABULARY.match(key)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _ids(value: Any) -> list[int]:
    return [i for i in (value if isinstance(value, (list, tuple)) else [value]) if _is_id(i)]


def _sequences(value: Any, one: Callable[[int], int | None]) -> Any:
    """A list of sequences of ids, or of alternatives that are such lists (`force_words_ids`)."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(word, list) and word for word in value):
        raise ValueError(f"is {str(value)[:60]}, and should be a list of lists of token ids")
    found = []
    for word in value:
        if all(isinstance(inner, list) for inner in word):
            new = _sequences(word, one)
        elif all(map(_is_id, word)):
            new = [one(token) for token in word]
            new = None if None in new else new
        else:
            raise ValueError(f"holds {str(word)[:60]}, which is no sequence of token ids")
        if new:
            found.append(new)
    return found or None


def _biases(value: Any, one: Callable[[int], int | None]) -> Any:
    """A list of [sequence of ids, bias]. Older files have a dictionary from sequences to biases."""
    if value is None:
        return None
    pairs = value
    if isinstance(value, dict):
        pairs = [
            [[int(i) for i in re.findall(r"\d+", str(key))], bias] for key, bias in value.items()
        ]
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list)
        and len(pair) == 2
        and isinstance(pair[0], list)
        and pair[0]
        and all(map(_is_id, pair[0]))
        for pair in pairs
    ):
        raise ValueError(f"is {str(value)[:60]}, and should be a list like [[[1, 2], -5.0]]")
    new = [[[one(token) for token in word], bias] for word, bias in pairs]
    return [[word, bias] for word, bias in new if None not in word] or None


def _pairs(value: Any, one: Callable[[int], int | None]) -> Any:
    """A list of [position, id that is forced there]."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value
    ):
        raise ValueError(f"is {str(value)[:60]}, and should be a list like [[1, 50259]]")
    # Older Whisper models have null for a position at which nothing is forced.
    new = [[at, one(token) if _is_id(token) else token, token] for at, token in value]
    return [[at, token] for at, token, old in new if token is not None or old is None] or None
