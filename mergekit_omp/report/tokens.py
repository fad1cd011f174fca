"""Single approximated tokens: which of them a report shows, their text, and what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mergekit_omp.approximation import Texts
from mergekit_omp.approximation.fit import Fit
from mergekit_omp.outside.display import escaped
from mergekit_omp.plugin.rehearsal import PlannedRows
from mergekit_omp.record.row_facts import Origin, RowFacts
from mergekit_omp.report.contents import TokenFacts, Weighed
from mergekit_omp.transplant.row_plan import ApproximatedRows
from mergekit_omp.vocabulary import Vocabulary

WORST = 15
"""Tokens in each table."""
SHOWN = 4
"""Parts to a token: those of the largest weights, whatever their signs."""
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

    def worst(self, fit: Fit | None) -> list[int]:
        """Ids of the tokens of the worst fit, the worst first."""
        if self._facts is None or fit is None:
            return []
        known = self._new[np.isfinite(self._facts.fit[self._new])]
        return _top(known, self._facts.fit[known] * (1 if fit.largest_is_worst else -1))

    def largest(self) -> list[int]:
        """Ids of the tokens with the largest norms, the largest first; none where all are alike."""
        norms = self._norms[self._new]
        if len(norms) > 1 and np.ptp(norms) <= 1e-4 * np.max(norms):
            return []
        return _top(self._new, self._norms[self._new])

    def facts(self, i: int, parts: dict[int, tuple[Weighed, ...]]) -> TokenFacts:
        fit = self._facts.fit[i] if self._facts is not None else np.nan
        return TokenFacts(
            id=i,
            text=self._text(i),
            fit=float(fit) if np.isfinite(fit) else None,
            norm=float(self._norms[i]),
            parts=parts.get(i, ()),
        )

    def parts(
        self, ids: Sequence[int], base: Float[Tensor, "base_rows dim"] | None
    ) -> dict[int, tuple[Weighed, ...]]:
        """What the rows of the tokens `ids` are made of, by id; `base` is the model's matrix."""
        found: dict[int, tuple[Weighed, ...]] = {}
        if self._rows is None or base is None:
            return found
        chosen = np.unique(np.array(ids, dtype=np.int64))
        for served in self._rows.plan.approximated:
            places = np.flatnonzero(np.isin(served.rows, chosen))
            told = parts_of(served, places, self._rows.vocabulary, base)
            found |= dict(zip(served.rows[places].tolist(), told, strict=True))
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


def parts_of(
    served: ApproximatedRows,
    places: Int[np.ndarray, "tokens"],
    model: Vocabulary,
    base: Float[Tensor, "base_rows dim"],
) -> list[tuple[Weighed, ...]]:
    """What the rows of the missing tokens at `places` of `served` are made of, the heaviest first.

    Empty for methods that do not tell. Raises ValueError as the method does.
    """
    method = served.approximation
    if method.parts is None or not len(places):
        return [() for _ in places]
    coding = replace(
        served.coding,
        targets=served.coding.targets[places],
        texts=_texts(served.coding.texts, places),
        progress=False,
    )
    inputs = coding.inputs(method, *served.donor_matrices())
    code = method.made_of(served.problem(base, inputs))
    if code is None:
        return [() for _ in places]
    return [
        tuple(Weighed(_named(model, row), weight) for row, weight in _heaviest(*code.weights(i)))
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
