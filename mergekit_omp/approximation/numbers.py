"""Numbers that the donor writes as one token and the base digit by digit.

No anchor is like them: a base that writes single digits has ten tokens with digits. The digits of
such a token say more of its row than a regression that was fitted on words.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mergekit_omp.approximation.base import Part, Texts

INPUT_SHARE = 0.3
HEAD_SHARE = 0.2


def digit_rows(texts: Texts, pieces: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """The base's rows of the digits of each missing token that is a number of two or more.

    `pieces` are those of the missing tokens. A space before the number does not matter; a number
    of which the base writes two digits at once is left out.
    """
    found = {}
    for i, text in enumerate(texts.missing):
        number = (text or b"").strip(b" ")
        if len(number) < 2 or not number.isdigit():
            continue
        digits = [row for row in pieces[i] if (texts.base[row] or b"").strip(b" ")]
        if [(texts.base[row] or b"").strip(b" ") for row in digits] == _single(number):
            found[i] = digits
    return found


def blend_digits(
    rows: Float[Tensor, "missing base_dim"],
    base: Float[Tensor, "base_rows base_dim"],
    digits: dict[int, list[int]],
    part: Part,
) -> None:
    """Moves the rows of numbers towards those of their digits, in place.

    To read "123" is to read its digits: in the input its row is moved towards their mean. To write
    it is to write its first digit and then others: in the head its row is moved towards that
    digit's, and less far, since a thousand numbers as probable as ten digits would take
    probability from all other tokens.
    """
    for i, own in digits.items():
        of_digits = base[torch.tensor(own, device=base.device)].to(rows.dtype)
        if not of_digits.isfinite().all():
            continue
        if part == Part.INPUT:
            rows[i] += INPUT_SHARE * (of_digits.mean(0) - rows[i])
        else:
            rows[i] += HEAD_SHARE * (of_digits[0] - rows[i])


def _single(number: bytes) -> list[bytes]:
    return [number[i : i + 1] for i in range(len(number))]
