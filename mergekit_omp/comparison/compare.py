"""Compares candidates on a text; the result is what `--json` prints (docs/compare.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from mergekit.options import MergeOptions

from mergekit_omp.comparison.candidates import ZERO, Candidate, Candidates, LeftOut
from mergekit_omp.comparison.measuring import Bench, Conditions, Measured
from mergekit_omp.errors import TransplantError
from mergekit_omp.evaluation.comparison import Scored, compared
from mergekit_omp.evaluation.evaluate import (
    ReadingOptions,
    common_context,
    conditions,
    warn_of_changes,
)
from mergekit_omp.evaluation.models import Loading
from mergekit_omp.evaluation.scoring import positions
from mergekit_omp.models.configs import read_config
from mergekit_omp.transplant.config import models_in_order

FORMAT = 1


@dataclass(frozen=True)
class Asked:
    """A method that the user named, with its parameters."""

    name: str
    method: str
    settings: Mapping[str, Any]


Runner: TypeAlias = Callable[
    [Conditions, Sequence[Candidate], Callable[[str], None]],
    tuple[Measured, list[Measured | LeftOut]],
]
"""Measures the base and all candidates, in whatever order and place; is given what tells a user of
its progress. Returns the base, and an outcome for each candidate in their order; raises
TransplantError for what stops them all."""


def one_after_the_other(
    conditions: Conditions, candidates: Sequence[Candidate], tell: Callable[[str], None]
) -> tuple[Measured, list[Measured | LeftOut]]:
    """In this process."""
    bench = Bench(conditions)
    found: list[Measured | LeftOut] = []
    for number, candidate in enumerate(candidates, start=1):
        tell(f"{number} of {len(candidates)}: {candidate.name}")
        found.append(bench.measure(candidate))
    check_some(found)
    tell("The base with its own tokenizer")
    return bench.measure_base(candidates[0]), found


def check_some(found: Sequence[Measured | LeftOut]) -> None:
    """Refuse to compare where every candidate was refused, for the first one's reason."""
    refused = [outcome for outcome in found if isinstance(outcome, LeftOut)]
    if len(refused) == len(found):
        raise TransplantError(refused[0].reason)


def compare(
    content: Any,
    file: str,
    documents: Sequence[str],
    asked: Sequence[Asked],
    *,
    options: MergeOptions,
    loading: Loading,
    reading: ReadingOptions,
    run: Runner = one_after_the_other,
    warn: Callable[[str], None] = lambda message: None,
    tell: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Bits per byte of a text for each of several methods in the place of a config's own.

    Args:
        content: the config, as YAML holds it.
        file: its name, for messages.
        documents: texts, none of which continues another.
        asked: the methods; all that the donor allows where there is none.
        options: those that the merge will get.
        loading: how models are read.
        reading: how the text is read.
        run: where candidates are measured.
        warn: gets a sentence for whatever limits the figures.
        tell: gets a line when a candidate's turn comes.

    Returns:
        The result; its keys are in docs/compare.md.

    Raises:
        TransplantError: a config, method, parameter or model that cannot be compared.
        ValueError: a context or device that is none.
    """
    choice = Candidates(content, file)
    candidates, left_out = _chosen(choice, asked, options)
    config = candidates[0].config
    base = config.base_model or models_in_order(config)[0]
    longest = positions(read_config(base, trust_remote_code=options.trust_remote_code))
    context = common_context({str(base): longest}, reading)
    given = Conditions(tuple(documents), context, reading, loading, options)
    of_base, outcomes = run(given, candidates, tell)
    measured = [outcome for outcome in outcomes if isinstance(outcome, Measured)]
    left_out += [outcome for outcome in outcomes if isinstance(outcome, LeftOut)]
    if not any(_approximated(one) for one in measured):
        raise TransplantError(
            "The merge approximates no row: the output has the same rows by every method, and "
            f"there is nothing to compare. Name another `tokenizer_source:` in {file}."
        )
    under = conditions(documents, context, of_base.read_as, reading, warn)
    _warn(of_base, measured, warn)
    scores = _sharing([of_base, *measured])
    result = compared(scores, documents, scores[0])
    written = {candidate.name: candidate for candidate in candidates}
    models = result["models"]
    for figures, one in zip(models, [of_base, *measured], strict=True):
        figures |= _facts(one, written.get(one.scored.name))
    ranked = sorted(models[1:], key=lambda figures: float(figures["bits_per_byte"]))
    best = ranked[0]["model"]
    return {
        "format": FORMAT,
        "config": file,
        "tokenizer_source": str(choice.source),
        **under,
        "base": of_base.scored.name,
        "best": best,
        "not_told_apart": _not_told_apart(best, ranked[1:], result["differences"]),
        "yaml": choice.yaml_of(written[best]),
        **result,
        "left_out": [{"method": one.method, "reason": one.reason} for one in left_out],
        "warnings": list(dict.fromkeys(w for one in measured for w in one.warnings)),
    }


def _chosen(
    choice: Candidates, asked: Sequence[Asked], options: MergeOptions
) -> tuple[list[Candidate], list[LeftOut]]:
    """The candidates, with rows of zeros first: these need nothing, so that a fault is the config's."""
    left_out: list[LeftOut] = []
    if asked:
        found = [choice.named(one.method, one.settings, one.name) for one in asked]
        choice.check_donor(found, options)
    else:
        found, left_out = choice.by_default(options)
    zero = choice.named(ZERO, {}, ZERO)
    by_name = {candidate.name: candidate for candidate in [zero, *found]}
    return list(by_name.values()), left_out


def _warn(base: Measured, measured: Sequence[Measured], warn: Callable[[str], None]) -> None:
    warn_of_changes(base.scored, warn)
    # The output's tokenizer is the same for all.
    output = replace(measured[0].scored, name="the output")
    warn_of_changes(output, warn)
    for message in dict.fromkeys(w for one in measured for w in one.warnings):
        warn(message)


def _sharing(measured: Iterable[Measured]) -> list[Scored]:
    """The scores, with equal vocabularies as one object."""
    held: dict[str, Any] = {}
    return [
        replace(
            one.scored,
            vocabulary=held.setdefault(one.scored.vocabulary.fingerprint, one.scored.vocabulary),
        )
        for one in measured
    ]


def _approximated(one: Measured) -> int | None:
    """How many of its rows are approximated; None for the base."""
    return None if one.scored.approximated is None else len(one.scored.approximated)


def _facts(one: Measured, candidate: Candidate | None) -> dict[str, Any]:
    return {
        "merge_method": candidate and candidate.content["merge_method"],
        "parameters": candidate and dict(candidate.content.get("parameters") or {}),
        "rows": one.rows,
        "approximated_rows": _approximated(one),
        "seconds": one.seconds,
        "peak_bytes": one.peak_bytes,
    }


def _not_told_apart(
    best: str, others: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Candidates whose interval of the difference from the best holds 0, or that have none."""
    clear = {frozenset((pair["model"], pair["minus"])): pair["clear"] for pair in differences}
    return [one["model"] for one in others if not clear[frozenset((best, one["model"]))]]
