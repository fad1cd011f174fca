"""Compares how well several models predict one text; what `mergekit-omp evaluate` shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mergekit_omp.evaluation import bootstrap
from mergekit_omp.evaluation.scoring import TokenScores
from mergekit_omp.evaluation.token_bytes import agreement, meanings, token_ends, widths
from mergekit_omp.vocabulary import Alignment, Match, Vocabulary, align


@dataclass(frozen=True, eq=False)
class Scored:
    """A model and its scores on the documents."""

    name: str
    vocabulary: Vocabulary
    scores: list[TokenScores]
    approximated: np.ndarray | None
    """Ids whose rows are not a model's own; None where that is not known."""
    ends: list[np.ndarray | None] = field(default_factory=list)
    """Where tokens end in each document's bytes; None where the tokenizer changes the text."""


def scored(
    name: str,
    vocabulary: Vocabulary,
    scores: list[TokenScores],
    documents: Sequence[str],
    approximated: np.ndarray | None,
) -> Scored:
    """The model's scores, with the place of each token in the text."""
    ends = [
        token_ends(vocabulary, score.ids, document)
        for score, document in zip(scores, documents, strict=True)
    ]
    return Scored(name, vocabulary, scores, approximated, ends)


def approximated_by(base: Vocabulary, output: Vocabulary) -> np.ndarray:
    """The output's ids that the base has no row for: those that a transplant approximates."""
    alignment: Alignment = align(base, output)
    return np.flatnonzero(alignment.match == Match.NONE)


def compared(
    models: Sequence[Scored], documents: Sequence[str], base: Scored | None
) -> dict[str, Any]:
    """The figures of every model and of every pair of models; see docs/evaluate.md for the keys."""
    sizes = np.array([len(document.encode("utf-8")) for document in documents], dtype=np.int64)
    draws = bootstrap.resamples(len(documents)) if len(documents) > 1 else []
    figures, values = [], []
    for model in models:
        bits = np.array([math.fsum(score.bits) for score in model.scores])
        tokens = sum(len(score.ids) for score in model.scores)
        drawn = bootstrap.ratios(draws, bits, sizes) if draws else None
        values.append((math.fsum(bits) / int(sizes.sum()), drawn))
        figures.append(
            {
                "model": model.name,
                "bits_per_byte": values[-1][0],
                "interval": _interval(drawn),
                "tokens": tokens,
                "bytes_per_token": int(sizes.sum()) / tokens,
                "documents_changed": sum(end is None for end in model.ends),
                **_split(model, draws),
                "agreement": _agreement(model, base, draws, int(sizes.sum())),
            }
        )
    return {"models": figures, "differences": _differences(models, values)}


def _interval(values: np.ndarray | None) -> list[float] | None:
    found = None if values is None else bootstrap.interval(values)
    return None if found is None else list(found)


def _differences(
    models: Sequence[Scored], values: list[tuple[float, np.ndarray | None]]
) -> list[dict[str, Any]]:
    pairs = []
    for i, first in enumerate(models):
        for j in range(i + 1, len(models)):
            (ours, mine), (theirs, others) = values[i], values[j]
            between = None if mine is None or others is None else _interval(mine - others)
            pairs.append(
                {
                    "model": first.name,
                    "minus": models[j].name,
                    "bits_per_byte": ours - theirs,
                    "interval": between,
                    "clear": None if between is None else between[0] > 0 or between[1] < 0,
                }
            )
    return pairs


def _split(model: Scored, draws: list[np.ndarray]) -> dict[str, Any]:
    """Tokens with rows of the model's own and approximated ones apart."""
    if model.approximated is None:
        return {"shared": None, "approximated": None}
    new = np.zeros(model.vocabulary.size, dtype=bool)
    new[model.approximated[model.approximated < model.vocabulary.size]] = True
    found = {}
    for name, wanted in (("shared", False), ("approximated", True)):
        bits, sizes, tokens = [], [], 0
        for score, ends in zip(model.scores, model.ends, strict=True):
            if ends is None:
                bits.append(0.0)
                sizes.append(0)
                continue
            chosen = new[score.ids] == wanted
            bits.append(math.fsum(score.bits[chosen]))
            sizes.append(int(widths(ends)[chosen].sum()))
            tokens += int(chosen.sum())
        total = sum(sizes)
        drawn = bootstrap.ratios(draws, np.array(bits), np.array(sizes)) if draws else None
        found[name] = {
            "tokens": tokens,
            "bytes": total,
            "bits_per_byte": math.fsum(bits) / total if total else None,
            "interval": _interval(drawn) if total else None,
        }
    return found


def _agreement(
    model: Scored, base: Scored | None, draws: list[np.ndarray], size: int
) -> dict[str, Any] | None:
    if base is None or base is model:
        return None
    mine, theirs = meanings([model.vocabulary, base.vocabulary])
    hits = np.zeros(len(model.scores))
    places = np.zeros(len(model.scores), dtype=np.int64)
    for i, (score, ends, other, other_ends) in enumerate(
        zip(model.scores, model.ends, base.scores, base.ends, strict=True)
    ):
        if ends is not None and other_ends is not None:
            same = agreement(score, ends, mine, other, other_ends, theirs)
            hits[i], places[i] = same.sum(), len(same)
    total = int(places.sum())
    drawn = bootstrap.ratios(draws, hits, places) if draws else None
    return {
        "base": base.name,
        "places": total,
        "top1": float(hits.sum()) / total if total else None,
        "interval": _interval(drawn) if total else None,
    }
