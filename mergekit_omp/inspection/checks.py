"""Warnings before the merge, one sentence for each problem."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit_omp.inspection.facts import Facts, ModelFacts
from mergekit_omp.outside.counts import counted

MORE_TOKENS = 1.5
"""A text that takes so many times as many tokens as before is warned of."""
LITTLE_COPIED = 0.3
MUCH_UNTRAINED = 0.01
FEW_ANCHORS = 100


def warnings(facts: Facts) -> list[str]:
    """All warnings: first those that the merge will log itself, then what else is seen."""
    found = list(facts.run.transplant.warnings)
    found += _texts(facts)
    for group in facts.groups:
        found += _rows(facts, group[0])
    found += _pursuits(facts)
    return list(dict.fromkeys(found))


def _texts(facts: Facts) -> Iterator[str]:
    lost = [kind for kind, reading in facts.reading.items() if reading.unknown]
    if lost:
        yield (
            f"The output's tokenizer cannot spell all of the sample ({', '.join(lost)}): it reads "
            f"{facts.run.tokenizer.unk_token!r} where it knows no characters."
        )
    altered = [(kind, r.altered) for kind, r in facts.reading.items() if r.altered is not None]
    own = [group[0].reading for group in facts.groups]
    new = [
        (kind, change)
        for kind, change in altered
        if change is not None and any(not r[kind].altered and not r[kind].unknown for r in own)
    ]
    if new:
        change = new[0][1]
        yield (
            f"The output's tokenizer does not keep text as it is ({', '.join(k for k, _ in new)}): "
            f"{change[0]!r} comes back as {change[1]!r}."
        )
    for group in facts.groups:
        more = [
            (kind, len(facts.reading[kind].ids) / max(len(reading.ids), 1))
            for kind, reading in group[0].reading.items()
            if not reading.unknown and not facts.reading[kind].unknown
        ]
        worse = [f"{kind} {ratio:.1f}" for kind, ratio in more if ratio >= MORE_TOKENS]
        if worse:
            yield (
                f"The output reads some texts in more tokens than {group[0].model} does, times: "
                f"{', '.join(worse)}. Contexts hold less of them, and they are new to the model."
            )


def _rows(facts: Facts, model: ModelFacts) -> Iterator[str]:
    output, counts = facts.run.transplant.output, model.counts
    copied = counts["copied"] + counts["overridden"]
    if copied < LITTLE_COPIED * output.tokens:
        yield (
            f"Only {copied:,} of the output's {output.tokens:,} tokens keep rows of "
            f"{model.model} ({copied / output.tokens:.0%}); all others are approximated."
        )
    if counts["never_emitted"] > MUCH_UNTRAINED * max(counts["shared"], 1):
        yield (
            f"{counts['never_emitted']:,} of the tokens that {model.model} shares with the output "
            "are never produced by its own tokenizer: their rows are untrained, so they are "
            "approximated and not copied."
        )


def _pursuits(facts: Facts) -> Iterator[str]:
    for step in facts.steps:
        where = f"{step.tensor} of {', '.join(step.models)}"
        if step.refusal:
            yield f"{where}: the merge will stop with: {step.refusal}."
        if step.donor is None:
            continue
        if step.anchors < min(step.dimension, FEW_ANCHORS):
            yield (
                f"{where}: base and donor share only {counted(step.anchors, 'token')} to learn from; "
                f"rows of {step.dimension} numbers are poorly approximated from so few."
            )
        if step.k is not None and step.k_in_force is not None and step.k_in_force < step.k:
            yield (
                f"{where}: `k: {step.k}` is reduced to {step.k_in_force}: there are {step.anchors} "
                f"anchors, and a row has {step.dimension} numbers."
            )
