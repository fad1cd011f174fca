"""Single approximated tokens: which of them a report shows, their text, and their anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mergekit_omp.approximation import AnchorCoding, Needs, Texts
from mergekit_omp.outside.display import escaped
from mergekit_omp.plugin.rehearsal import PlannedRows
from mergekit_omp.record.row_facts import Origin, RowFacts
from mergekit_omp.report.contents import Anchor, TokenFacts
from mergekit_omp.transplant.row_plan import ApproximatedRows, vocabulary_first
from mergekit_omp.vocabulary import Vocabulary

WORST = 15
"""Tokens in each table."""
SHOWN = 4
"""Anchors to a token: those of the largest weights, whatever their signs."""
_SIGNS = {"\n": "\\n", "\t": "\\t", "\r": "\\r", " ": "␣", "\\": "\\\\"}
_LONGEST = 40
"""Characters of a token that are shown, at most."""


class Tokens:
    """Approximated tokens of one tensor."""

    def __init__(
        self,
        output: Vocabulary,
        norms: Float[np.ndarray, "rows"],
        facts: RowFacts | None,
        rows: PlannedRows | None,
    ):
        self._output = output
        self._norms = norms
        self._facts = facts
        self._rows = rows
        self._new = ids_of(facts, Origin.APPROXIMATED)

    def worst(self) -> list[int]:
        """Ids of the tokens with the largest relative residuals, the largest first."""
        if self._facts is None:
            return []
        residuals = self._facts.relative_residual[self._new]
        coded = self._new[np.isfinite(residuals)]
        return _top(coded, self._facts.relative_residual[coded])

    def largest(self) -> list[int]:
        """Ids of the tokens with the largest norms, the largest first."""
        return _top(self._new, self._norms[self._new])

    def facts(self, i: int, anchors: dict[int, tuple[Anchor, ...]]) -> TokenFacts:
        residual = self._facts.relative_residual[i] if self._facts is not None else np.nan
        return TokenFacts(
            id=i,
            text=self._text(i),
            residual=float(residual) if np.isfinite(residual) else None,
            norm=float(self._norms[i]),
            anchors=anchors.get(i, ()),
        )

    def anchors(self, ids: Sequence[int]) -> dict[int, tuple[Anchor, ...]]:
        """The heaviest anchors of the tokens `ids`, by id."""
        found: dict[int, tuple[Anchor, ...]] = {}
        for served in self._rows.plan.approximated if self._rows is not None else ():
            chosen = np.unique(np.array(ids, dtype=np.int64))
            places = np.flatnonzero(np.isin(served.rows, chosen))
            assert self._rows is not None
            coded = anchors_of(served, places, self._rows.vocabulary)
            found |= dict(zip(served.rows[places].tolist(), coded, strict=True))
        return found

    def _text(self, i: int) -> str:
        known = i < self._output.size
        content = self._output.content[i] if known else None
        if content is not None:
            return shown(content)
        return shown((self._output.strings[i] if known else None) or f"id {i}")


def _top(ids: Int[np.ndarray, "ids"], values: Float[np.ndarray, "ids"]) -> list[int]:
    finite = np.where(np.isfinite(values), values, np.inf)
    top: list[int] = ids[np.argsort(-finite, kind="stable")[:WORST]].tolist()
    return top


def ids_of(facts: RowFacts | None, kind: Origin) -> Int[np.ndarray, "some"]:
    """Ids of the rows that came about as `kind`; none where nothing is known."""
    return np.flatnonzero(facts.origin == kind) if facts is not None else np.empty(0, np.int64)


def anchors_of(
    served: ApproximatedRows,
    places: Int[np.ndarray, "tokens"],
    model: Vocabulary,
) -> list[tuple[Anchor, ...]]:
    """The heaviest anchors of the missing tokens at `places` of `served`.

    Empty for methods that do not code in anchors. Raises ValueError as the method does.
    """
    method = served.approximation
    if not isinstance(method, AnchorCoding) or not len(places):
        return [() for _ in places]
    donor = None
    if served.donor is not None and Needs.DONOR_ROWS in method.needs:
        donor = vocabulary_first(served.donor.execute(), served.donor_axis)
    plan = replace(
        served.coding,
        targets=served.coding.targets[places],
        texts=_texts(served.coding.texts, places),
        progress=False,
    )
    code = method.encode(plan.inputs(method.needs, donor))
    return [
        tuple(Anchor(_named(model, row), weight) for row, weight in _heaviest(*code.weights(i)))
        for i in range(len(places))
    ]


def _texts(texts: Texts | None, places: Int[np.ndarray, "tokens"]) -> Texts | None:
    if texts is None:
        return None
    return replace(texts, missing=[texts.missing[i] for i in places])


def _heaviest(rows: Tensor, weights: Tensor) -> list[tuple[int, float]]:
    order = torch.argsort(weights.abs(), descending=True, stable=True)[:SHOWN]
    return list(zip(rows[order].tolist(), weights[order].tolist(), strict=True))


def _named(model: Vocabulary, row: int) -> str:
    content = model.content[row]
    return shown(content if content is not None else model.strings[row] or f"id {row}")


def shown(token: bytes | str) -> str:
    """A token's text: spaces as ␣; control and formatting characters and bad bytes escaped."""
    text = token.decode("utf-8", "backslashreplace") if isinstance(token, bytes) else token
    broken = isinstance(token, bytes) and not _is_text(token)
    signs = {**_SIGNS, "\\": "\\"} if broken else _SIGNS
    written = "".join(signs.get(c) or (c if c.isprintable() else escaped(c)) for c in text)
    return written if len(written) <= _LONGEST else f"{written[: _LONGEST - 1]}…"


def _is_text(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True
