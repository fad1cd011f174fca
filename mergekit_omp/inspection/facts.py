"""Everything that `inspect` finds out about a planned merge, gathered for text and JSON alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from mergekit.common import ModelReference
from transformers import PreTrainedTokenizerBase

from mergekit_omp.inspection.estimate import Step, present, seconds_per_multiply_add, steps
from mergekit_omp.inspection.sample import Reading, read_samples
from mergekit_omp.inspection.tokens_block import tokens_block
from mergekit_omp.plugin.rehearsal import DryRun
from mergekit_omp.transplant.control import ControlToken, counterparts, unmatched
from mergekit_omp.transplant.row_plan import RowPlan
from mergekit_omp.vocabulary import (
    Alignment,
    DigitScheme,
    Match,
    Vocabulary,
    digit_example,
    digit_scheme,
)

NUMBER = "1234567"


@dataclass(frozen=True)
class Digits:
    """How a tokenizer cuts numbers."""

    scheme: DigitScheme
    example: tuple[str, ...]
    """What it makes of `NUMBER`."""


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """One model of the merge."""

    model: ModelReference
    vocabulary: Vocabulary
    tokenizer: PreTrainedTokenizerBase
    donors: tuple[str, ...]
    """The donors of rows that it lacks, in the order in which they are asked."""
    entries: tuple[dict[str, Any], ...]
    """What the merge's record will say of each of its vocabulary tensors."""
    alignment: Alignment
    copied_by: Counter[Match]
    """How many rows are copied, by what their tokens were matched by."""
    kept: Bool[np.ndarray, "rows"]
    """The output's rows that are its own (copied) or set by `tokens:`."""
    control: tuple[ControlToken, ...]
    digits: Digits
    reading: Mapping[str, Reading]

    @property
    def counts(self) -> dict[str, int]:
        """The record's counts for its first vocabulary tensor, which is the input embedding."""
        counts: dict[str, int] = self.entries[0]["counts"]
        return counts


@dataclass(frozen=True, eq=False)
class Facts:
    """A planned merge, as a user wants to know it before it runs."""

    run: DryRun
    models: tuple[ModelFacts, ...]
    digits: Digits
    """How the output's tokenizer cuts numbers."""
    reading: Mapping[str, Reading]
    """How the output's tokenizer reads the sample texts, by their kind."""
    steps: tuple[Step, ...]
    seconds_per_multiply_add: float
    block: str | None
    """A `tokenizer:` block for control tokens of the base that have a likely counterpart."""
    without_counterpart: tuple[ControlToken, ...]
    """Unmatched control tokens for which no counterpart is known."""

    @property
    def groups(self) -> list[list[ModelFacts]]:
        """The models by vocabulary, in the order of the config."""
        groups: dict[tuple[str, str], list[ModelFacts]] = {}
        for facts in self.models:
            key = (facts.vocabulary.fingerprint, repr(facts.counts))
            groups.setdefault(key, []).append(facts)
        return list(groups.values())


def gather(run: DryRun) -> Facts:
    """Find out everything; within the dry run, since headers are read."""
    transplant = run.transplant
    digits: dict[str, Digits] = {}
    readings: dict[str, dict[str, Reading]] = {}

    def known(vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerBase) -> None:
        key = vocabulary.fingerprint
        if key not in digits:
            digits[key] = Digits(digit_scheme(vocabulary), tuple(digit_example(vocabulary, NUMBER)))
            readings[key] = read_samples(tokenizer)

    known(transplant.output, run.tokenizer)
    models = []
    # A model without a vocabulary tensor, the middle of a stack of slices, is not among them.
    for model, tokens in transplant.tokens.items():
        known(tokens.vocabulary, tokens.tokenizer)
        rows = transplant.of(model)[0]
        entries = tuple(transplant.entries(model))
        models.append(
            ModelFacts(
                model=model,
                vocabulary=tokens.vocabulary,
                tokenizer=tokens.tokenizer,
                donors=tuple(
                    dict.fromkeys(d["model"] for entry in entries for d in entry["donors"])
                ),
                entries=entries,
                alignment=rows.alignment,
                copied_by=Counter(map(Match, rows.alignment.match[rows.plan.copied_to].tolist())),
                kept=_kept(rows.plan),
                control=tokens.control,
                digits=digits[tokens.vocabulary.fingerprint],
                reading=readings[tokens.vocabulary.fingerprint],
            )
        )
    block, rest = _block(run, models)
    return Facts(
        run=run,
        models=tuple(models),
        digits=digits[transplant.output.fingerprint],
        reading=readings[transplant.output.fingerprint],
        steps=tuple(steps(transplant)),
        seconds_per_multiply_add=seconds_per_multiply_add(
            present(transplant.request.options.device)
        ),
        block=block,
        without_counterpart=rest,
    )


def _kept(plan: RowPlan) -> Bool[np.ndarray, "rows"]:
    kept = np.zeros(plan.rows, dtype=bool)
    kept[plan.copied_to] = True
    kept[[override.output_id for override in plan.overrides]] = True
    return kept


def _block(run: DryRun, models: list[ModelFacts]) -> tuple[str | None, tuple[ControlToken, ...]]:
    base = next((facts for facts in models if facts.model == run.transplant.request.base), None)
    if base is None or run.transplant.request.source == "union":
        # In a union each model keeps its own markup.
        return None, ()
    named = counterparts(base.control, base.vocabulary)
    rest = [token for token in unmatched(base.control) if token.token not in named]
    block = tokens_block(run.config, base.model, named) if named else None
    return block, tuple(rest)
