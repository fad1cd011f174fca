"""Control tokens of the output: where their rows come from, and suggestions for those without one.

Roles (bos, eos, pad, ...) are transformers' special tokens. `PURPOSES` groups chat markup of
published model families by what it is used for in their chat templates.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from mergekit.common import ModelReference

from mergekit_omp.models.tokenizers import Vocabularies
from mergekit_omp.transplant.row_plan import OverriddenRow, RowPlan
from mergekit_omp.vocabulary import Alignment, Kind, Match, Vocabulary

_TURN_START = (
    *("<|im_start|>", "<|start_header_id|>", "<|header_start|>", "<start_of_turn>", "<|start|>"),
    *("<|turn>", "<|user|>", "<|User|>", "<｜User｜>"),
)
TURN_END = (
    *("<|im_end|>", "<|eot_id|>", "<|eot|>", "<end_of_turn>", "<|end|>", "<turn|>"),
    *("<|end_of_turn|>", "<|endofturn|>", "<|eom_id|>", "<|eom|>"),
)
PURPOSES: tuple[tuple[str, ...], ...] = (
    _TURN_START,
    TURN_END,
    ("<|end_header_id|>", "<|header_end|>", "<|message|>", "<|im_sep|>"),
    ("<|fim_prefix|>", "<fim_prefix>", "<|fim_begin|>", "<｜fim▁begin｜>", "[PREFIX]"),
    ("<|fim_middle|>", "<fim_middle>", "<|fim_end|>", "<｜fim▁end｜>", "[MIDDLE]"),
    ("<|fim_suffix|>", "<fim_suffix>", "<|fim_hole|>", "<｜fim▁hole｜>", "[SUFFIX]"),
    ("<tool_call>", "<|tool_call|>", "[TOOL_CALLS]", "<|python_tag|>", "<|python_start|>"),
    ("</tool_call>", "<|/tool_call|>", "<|python_end|>"),
    ("<tool_response>", "<|tool_response|>", "[TOOL_RESULTS]"),
    ("</tool_response>", "<|/tool_response|>", "[/TOOL_RESULTS]"),
    ("<think>", "[THINK]", "<|channel>"),
    ("</think>", "[/THINK]", "<channel|>"),
    ("<|image|>", "<|image_pad|>", "<|patch|>", "[IMG]", "<image>", "<image_soft_token>"),
    ("<|file_sep|>", "<file_sep>", "<|file_separator|>"),
    ("<|repo_name|>", "<repo_name>", "<reponame>"),
)
"""Each entry: tokens of different families that serve the same purpose, the most common first.

[INST] and [/INST] are not listed: each stands for what other families write as the end of a turn,
the start of the next and its role together.
"""
DOCUMENT_BORDERS = ("<|endoftext|>", "<|end_of_text|>", "<|begin_of_text|>")
"""Tokens between documents, which can replace bos in a model that has none."""
NEVER_READ = ("pad", "unk", "mask", "sep", "cls")
"""Roles that a model does not read while it generates, so that an approximated row does no harm."""
MANY_ALIKE = 8
"""So many control tokens whose names differ only by a number are taken to be reserved ones."""
_SPARE = re.compile(r"reserved|unused|special_?\d|extra_?id|placeholder|dummy|<pad\d*>", re.I)


class Fate(str, Enum):
    """Where a control token's row comes from."""

    ROLE = "copied by role"
    STRING = "copied by string"
    OVERRIDE = "override"
    APPROXIMATED = "approximated"
    MEAN = "mean of the rows"


@dataclass(frozen=True)
class ControlToken:
    """One control token of the output, in one model."""

    id: int
    token: str
    roles: tuple[str, ...]
    fate: Fate
    source: str | None
    """The token that it is copied from."""
    source_model: str | None
    """The model that an override takes it from."""
    suppressed: bool
    """Another token has the same row, and this one must not be generated in its place."""

    @property
    def family(self) -> str:
        """Its name with every number replaced by 0: the same for reserved tokens of one kind."""
        return re.sub(r"\d+", "0", self.token)


def control_tokens(
    vocabularies: Vocabularies, plan: RowPlan, alignment: Alignment, gained: frozenset[str]
) -> list[ControlToken]:
    """The control tokens of the output, and added tokens that were not matched by bytes, by id.

    `gained` are ordinary tokens that a union adds; they are left out.
    """
    output, model = alignment.output, alignment.model
    overrides = {override.output_id: override for override in plan.overrides}
    copied, without_donor_row = set(plan.copied_to.tolist()), set(plan.without_donor_row.tolist())
    roles: dict[int, list[str]] = {}
    for role, i in output.roles.items():
        roles.setdefault(i, []).append(role)
    found = []
    for i in np.flatnonzero((output.kinds == Kind.CONTROL) | output.added).tolist():
        token = output.strings[i] or ""
        if output.kinds[i] != Kind.CONTROL and (
            token in gained or (i in copied and alignment.match[i] == Match.BYTES)
        ):
            continue
        source: str | None = None
        source_model: ModelReference | None = None
        if i in overrides:
            source_model = overrides[i].model
            fate, source = Fate.OVERRIDE, _override_source(vocabularies, overrides[i])
        elif i in copied:
            fate = Fate.ROLE if alignment.match[i] == Match.ROLE else Fate.STRING
            source = model.strings[int(alignment.source[i])]
        else:
            fate = Fate.MEAN if i in without_donor_row else Fate.APPROXIMATED
        suppressed = bool(alignment.repeated[i]) and i in copied
        named = None if source_model is None else str(source_model)
        played = tuple(roles.get(i, ()))
        found.append(ControlToken(i, token, played, fate, source, named, suppressed))
    return found


def _override_source(vocabularies: Vocabularies, override: OverriddenRow) -> str:
    if override.model is None:
        return "a row of zeros"
    strings = vocabularies.vocabulary(override.model).strings
    named = [(strings[row] if row < len(strings) else None) or f"id {row}" for row in override.rows]
    if len(named) == 1:
        return named[0]
    alike = len(set(override.weights)) == 1
    return f"{'the mean' if alike else 'a weighted mean'} of {' '.join(named)}"


def unmatched(tokens: Iterable[ControlToken]) -> list[ControlToken]:
    """Tokens with an approximated or mean row that a user may want to set.

    Reserved tokens are left out, and those that only have roles in `NEVER_READ`.
    """
    tokens = list(tokens)
    sizes = Counter(token.family for token in tokens)
    return [
        token
        for token in tokens
        if token.fate in (Fate.APPROXIMATED, Fate.MEAN)
        and (token.roles or not (_SPARE.search(token.token) or sizes[token.family] >= MANY_ALIKE))
        and not (token.roles and set(token.roles) <= set(NEVER_READ))
    ]


def counterparts(tokens: Iterable[ControlToken], model: Vocabulary) -> dict[str, str]:
    """For each unmatched token the model's control token of the same purpose, where one is known.

    No token of the model is suggested twice: in a head, the two would share its probability.
    """
    tokens = list(tokens)
    taken = {token.source for token in tokens if token.fate == Fate.OVERRIDE}
    found: dict[str, str] = {}
    for token in sorted(unmatched(tokens), key=_usualness):
        other = _counterpart(token, model)
        if other is not None and other not in taken:
            found[token.token] = other
            taken.add(other)
    return found


def _usualness(token: ControlToken) -> int:
    return min((p.index(token.token) for p in PURPOSES if token.token in p), default=0)


def _counterpart(token: ControlToken, model: Vocabulary) -> str | None:
    held = {
        model.strings[i]: i for i in np.flatnonzero((model.kinds == Kind.CONTROL) | model.added)
    }
    own = {role: model.strings[i] for role, i in model.roles.items()}
    if "eos" in token.roles:
        return own.get("eos")
    if "bos" in token.roles:
        borders = [border for border in DOCUMENT_BORDERS if border in held]
        return borders[0] if borders else own.get("eos")
    for purpose in PURPOSES:
        if token.token in purpose:
            same = next((other for other in purpose if other in held), None)
            return own.get("eos") if same is None and purpose is TURN_END else same
    return None
