"""Tokens that a base had and its output has not, and how often a text would meet them.

After a swap a text is cut otherwise: what was one token of the base may be several of the output.
`mergekit-omp grow --restore` gives the last of these the base's row of the whole.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from mergekit_omp.vocabulary.digits import GROUPED, DigitScheme, digit_scheme
from mergekit_omp.vocabulary.vocabulary import Vocabulary

LONGEST = 8
"""Tokens of the longest n-gram."""
DIGITS = 15
"""Digits that are looked back over for the borders of their groups."""
WORTHWHILE = 0.02
"""The least share of positions of which something is won. Of 2.9% something is measured."""
SAMPLE = (
    "The lighthouse keeper climbed the stairs every evening, wrote down the weather and waited for "
    "the ships. In 1987 he counted 2,457 of them, or 205 a month.\n"
    "def moving_average(values: list[float], width: int = 3) -> list[float]:\n"
    "    return [sum(values[i : i + width]) / width for i in range(len(values) - width + 1)]\n"
    "12 + 7 = 19; 480 * 25 = 12000; 3.14159 / 2 = 1.570795; 1234567 kWh, up from 1198042.\n"
)


def lost_tokens(
    base: Vocabulary, output: Vocabulary, rows: int, among: Collection[bytes] | None = None
) -> dict[int, list[int]]:
    """Tokens that the base emits and the output has not, by id, as the output's ids spell them.

    Args:
        rows: of the base's embedding; ids past them have no row to give back.
        among: the byte strings to look at, all of them by default.
    """
    lost = [
        (data, i)
        for data, i in base.representatives.items()
        if data not in output.representatives and i < rows and (among is None or data in among)
    ]
    emitted = base.emitted(np.array([i for _, i in lost], dtype=np.int64))
    wanted = [pair for pair, is_emitted in zip(lost, emitted, strict=True) if is_emitted]
    found: dict[tuple[int, ...], int] = {}
    for (data, i), pieces in zip(wanted, output.segment([d for d, _ in wanted]), strict=True):
        spelled = b"".join(output.content[piece] or b"" for piece in pieces)
        if 2 <= len(pieces) <= LONGEST and spelled == data:
            found[tuple(pieces)] = i
    return {i: list(pieces) for pieces, i in found.items()}


def digit_groups(base: Vocabulary, output: Vocabulary) -> int | None:
    """How many digits the base groups from the left, where the output writes them one by one."""
    size, from_right = GROUPED.get(digit_scheme(base), (0, True))
    if from_right or digit_scheme(output) != DigitScheme.SINGLE:
        # From the right, groups hang on digits that are not read yet.
        return None
    return size


def lost_share(base: Vocabulary, output: Vocabulary, text: str = SAMPLE) -> float:
    """The share of a text's positions, as the output cuts it, at which a lost token ends."""
    if base.fingerprint == output.fingerprint:
        return 0.0
    (ids,) = output.segment([text.encode()])
    contents = [output.content[i] or b"" for i in ids]
    spans = {
        (at, length): b"".join(contents[at + 1 - length : at + 1])
        for at in range(len(ids))
        for length in range(2, min(LONGEST, at + 1) + 1)
    }
    found = lost_tokens(base, output, base.size, set(spans.values()))
    spelled = {tuple(pieces) for pieces in found.values()}
    group = digit_groups(base, output) if spelled else None
    hits = run = 0
    for at, content in enumerate(contents):
        run = run + 1 if group and content.isdigit() else 0
        hits += any(
            tuple(ids[at + 1 - length : at + 1]) in spelled
            # In a number only where a group of the base ends.
            and (group is None or run < length or _ends_group(run, length, group))
            for length in range(2, min(LONGEST, at + 1) + 1)
        )
    return hits / max(len(ids), 1)


def _ends_group(run: int, length: int, group: int) -> bool:
    return run <= DIGITS and (run - 1) % group + 1 == length
