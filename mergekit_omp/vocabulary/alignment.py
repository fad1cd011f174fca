"""Which row of a model belongs to each id of the output's vocabulary.

Ordinary tokens match by the bytes that they decode to, control
tokens by role or by identical string, and never one by the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Int8, Int64

from mergekit_omp.vocabulary.vocabulary import ROLES, Kind, Vocabulary


class Match(IntEnum):
    """How an output id found the model's row that is copied to it."""

    NONE = 0
    """It found none: its row is missing."""
    BYTES = 1
    """Both tokens are the same bytes."""
    ROLE = 2
    """Both tokens play the same role."""
    STRING = 3
    """Both tokens are the same markup."""
    GAP = 4
    """The output has no token with this id."""


@dataclass(frozen=True)
class Counts:
    """What an alignment amounts to, in ids of the output unless said otherwise."""

    shared: int
    """Distinct byte strings that are ordinary tokens of both vocabularies."""
    by_role: int
    """Control tokens that get the row of a control token of the same role."""
    by_string: int
    """Control tokens that get the row of the identical string."""
    missing: int
    """Tokens that get no row of the model."""
    padding: int
    """Ids without a token."""
    never_emitted: int
    """Shared byte strings not copied: the model never emits the token, the output does."""
    out_of_range: int
    """Tokens not copied because the model's matrix ends before their row."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """From a model's vocabulary to an output's: which rows are copied, and which may be anchors."""

    model: Vocabulary
    output: Vocabulary
    source: Int64[np.ndarray, "output_size"]
    """The model's id whose row goes to each output id; -1 where none may be copied."""
    match: Int8[np.ndarray, "output_size"]
    """The `Match` of each output id; NONE or GAP exactly where `source` is -1."""
    anchors: Bool[np.ndarray, "output_size"]
    """Shared ordinary tokens that both tokenizers emit."""
    repeated: Bool[np.ndarray, "output_size"]
    """Control tokens that get a row which a more important one gets too (pad == eos in the model).

    In an output head such a row would take half of the other's probability.
    """
    counts: Counts


def align(model: Vocabulary, output: Vocabulary, *, rows: int | None = None) -> Alignment:
    """Aligns a model's vocabulary with the output's.

    `rows` is how many rows the model's matrix has; ids at or past it are never copied, and
    never anchors. Vocabularies with equal fingerprints align id by id.
    """
    match = np.full(output.size, Match.NONE, dtype=np.int8)
    source = np.full(output.size, -1, dtype=np.int64)
    match[output.kinds == Kind.GAP] = Match.GAP
    out_ids, model_ids = _shared(model, output)
    out_emitted, model_emitted = output.emitted(out_ids), model.emitted(model_ids)
    untrained = out_emitted & ~model_emitted
    both = np.zeros(output.size, dtype=bool)
    if model.size == output.size and model.fingerprint == output.fingerprint:
        ordinary = np.flatnonzero(output.kinds == Kind.ORDINARY)
        control = np.flatnonzero(output.kinds == Kind.CONTROL)
        source[ordinary], match[ordinary] = ordinary, Match.BYTES
        source[control], match[control] = control, Match.STRING
        roles = sorted(output.roles.values())
        match[roles] = np.where(output.kinds[roles] == Kind.CONTROL, Match.ROLE, match[roles])
        both[out_ids] = out_emitted
        untrained[:] = False
    else:
        copied = ~untrained
        source[out_ids[copied]] = model_ids[copied]
        match[out_ids[copied]] = Match.BYTES
        both[out_ids] = out_emitted & model_emitted
        _align_repetitions(model, output, source, match)
        _align_control(model, output, source, match)
    beyond = source >= (model.size if rows is None else rows)
    source[beyond], match[beyond] = -1, Match.NONE
    counts = Counts(
        shared=len(out_ids),
        by_role=int(np.count_nonzero(match == Match.ROLE)),
        by_string=int(np.count_nonzero(match == Match.STRING)),
        missing=int(np.count_nonzero(match == Match.NONE)),
        padding=int(np.count_nonzero(match == Match.GAP)),
        never_emitted=int(np.count_nonzero(untrained)),
        out_of_range=int(np.count_nonzero(beyond)),
    )
    repeated = _repeated(output, source, match)
    return Alignment(model, output, source, match, both & ~beyond, repeated, counts)


def _shared(
    model: Vocabulary, output: Vocabulary
) -> tuple[Int64[np.ndarray, "shared"], Int64[np.ndarray, "shared"]]:
    """The representatives of each byte string of both, in the order of the output's."""
    of_model = model.representatives
    pairs = [(i, of_model[data]) for data, i in output.representatives.items() if data in of_model]
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _align_repetitions(
    model: Vocabulary,
    output: Vocabulary,
    source: Int64[np.ndarray, "output_size"],
    match: Int8[np.ndarray, "output_size"],
) -> None:
    """Further tokens of the same bytes (<0x41> beside A) match by their string, if at all.

    The representative's row is not copied twice: in a head that would split its probability.
    """
    for data, ids in output.repetitions.items():
        others = {model.strings[i]: i for i in model.repetitions.get(data, [])[1:]}
        for i in ids[1:]:
            other = others.get(output.strings[i])
            if other is None:
                continue
            output_emits, model_emits = (
                bool(vocabulary.emitted(np.array([j]))[0])
                for vocabulary, j in ((output, i), (model, other))
            )
            if model_emits or not output_emits:
                source[i], match[i] = other, Match.BYTES


def _align_control(
    model: Vocabulary,
    output: Vocabulary,
    source: Int64[np.ndarray, "output_size"],
    match: Int8[np.ndarray, "output_size"],
) -> None:
    """Control tokens by role or string, and added markup by string with the other's control."""
    control = {model.strings[i]: i for i in _ids(model, Kind.CONTROL)}
    markup = {model.strings[i]: i for i in np.flatnonzero(model.added).tolist()}
    model_roles, output_roles = _roles_by_id(model), _roles_by_id(output)
    for i in _ids(output, Kind.CONTROL):
        same = control.get(output.strings[i], markup.get(output.strings[i]))
        wanted = output_roles.get(i, [])
        played = [] if same is None else model_roles.get(same, [])
        by_role = (model.roles[role] for role in wanted if role in model.roles)
        players = [player for player in by_role if model.kinds[player] == Kind.CONTROL]
        if same is not None and set(wanted) & set(played):
            source[i], match[i] = same, Match.ROLE
        elif same is not None and not (wanted and played):
            source[i], match[i] = same, Match.STRING
        elif players:
            source[i], match[i] = players[0], Match.ROLE
        elif same is not None:
            # Another role, but the same token: better than an approximated row.
            source[i], match[i] = same, Match.STRING
    for i in np.flatnonzero(output.added & (match == Match.NONE)).tolist():
        same = control.get(output.strings[i])
        if same is not None:
            source[i], match[i] = same, Match.STRING


def _ids(vocabulary: Vocabulary, kind: Kind) -> list[int]:
    ids: list[int] = np.flatnonzero(vocabulary.kinds == kind).tolist()
    return ids


def _roles_by_id(vocabulary: Vocabulary) -> dict[int, list[str]]:
    """The roles of each id, in the order of `ROLES`."""
    roles: dict[int, list[str]] = {}
    for role in ROLES:
        if role in vocabulary.roles:
            roles.setdefault(vocabulary.roles[role], []).append(role)
    return roles


def _repeated(
    output: Vocabulary,
    source: Int64[np.ndarray, "output_size"],
    match: Int8[np.ndarray, "output_size"],
) -> Bool[np.ndarray, "output_size"]:
    repeated = np.zeros(output.size, dtype=bool)
    by_name = np.isin(match, (Match.ROLE, Match.STRING))
    first: dict[int, int] = {}
    for i in [*_roles_by_id(output), *np.flatnonzero(by_name).tolist()]:
        if by_name[i]:
            repeated[i] = first.setdefault(int(source[i]), i) != i
    return repeated
