"""The report's section on one vocabulary tensor, as complete as the models at hand allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mergekit_omp.approximation import APPROXIMATIONS
from mergekit_omp.approximation.moments import finite_mean
from mergekit_omp.plugin.rehearsal import PlannedRows, Replanned
from mergekit_omp.record.row_facts import Origin, RowFacts
from mergekit_omp.report.contents import Outlier, Section
from mergekit_omp.report.held_out import HeldOut, all_methods, held_out
from mergekit_omp.report.rows import Distances, row_norms
from mergekit_omp.report.tokens import WORST, Tokens, ids_of
from mergekit_omp.transplant.row_plan import ApproximatedRows, vocabulary_first
from mergekit_omp.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Wanted:
    """How much of a check to make."""

    hidden: int
    """How many tokens to hide, at most."""
    compare: bool
    """Whether to run every method."""


def section(
    model: str,
    entry: dict[str, Any],
    matrix: Float[Tensor, "rows dim"],
    output: Vocabulary,
    facts: RowFacts | None,
    planned: Replanned | None,
    wanted: Wanted,
    compared: Replanned | None = None,
) -> Section:
    """Puts together what can be told of a tensor.

    `matrix` is the output's. `facts` are the merge's own; `planned` is None where the models are
    not at hand. `compared` is the same merge planned with a donor's rows, where other methods
    need them.
    """
    rows = planned.tensors.get((model, entry["tensor"])) if planned is not None else None
    facts = facts if facts is not None else _facts_of(rows)
    notes = []
    if facts is None:
        notes.append(
            "Which rows were copied is not known: the merge left no tokenizer_transplant.npz, and "
            "the models are not at hand."
        )
    norms = row_norms(matrix)
    copied, new = (ids_of(facts, kind) for kind in (Origin.COPIED, Origin.APPROXIMATED))
    shown_norms = {"approximated": norms[new], "copied": norms[copied]}
    base = rows.base() if rows is not None else None
    if base is not None:
        shown_norms["all rows of the model"] = row_norms(base)
    if facts is None:
        shown_norms = {"all rows of the output": norms}
    if entry["part"] == "head_bias":
        return Section(
            model,
            entry,
            norms=shown_norms,
            fits=_fits(facts),
            worst=(),
            largest=(),
            outliers=None,
            held_out=None,
            notes=tuple(notes),
        )
    tokens = Tokens(output, norms, facts, rows)
    outliers = None if base is None or rows is None else _outliers(tokens, rows, matrix, base)
    worst, largest = tokens.worst(APPROXIMATIONS[entry["method"]].fit), tokens.largest()
    parts = tokens.parts([*worst, *largest, *(i for i, *_ in outliers or ())], base)
    check = None
    if base is not None and wanted.hidden:
        check = _check(model, entry, base, planned, compared, wanted)
    return Section(
        model=model,
        entry=entry,
        norms=shown_norms,
        fits=_fits(facts),
        worst=tuple(tokens.facts(i, parts) for i in worst),
        largest=tuple(tokens.facts(i, parts) for i in largest),
        outliers=None
        if outliers is None
        else tuple(Outlier(tokens.facts(i, parts), t, s) for i, t, s in outliers),
        held_out=check,
        notes=tuple(notes),
    )


def _fits(facts: RowFacts | None) -> Float[np.ndarray, "approximated"]:
    known: np.ndarray = facts.fit[np.isfinite(facts.fit)] if facts is not None else np.empty(0)
    return known


def _facts_of(rows: PlannedRows | None) -> RowFacts | None:
    if rows is None:
        return None
    plan = rows.plan
    return RowFacts.of(
        plan.rows,
        plan.copied_to,
        [served.rows for served in plan.approximated],
        plan.without_donor_row,
        plan.overrides,
    )


def _outliers(
    tokens: Tokens,
    rows: PlannedRows,
    matrix: Float[Tensor, "rows dim"],
    base: Float[Tensor, "base_rows dim"],
) -> list[tuple[int, float, float]] | None:
    """Suspicious tokens, the largest first: id, how large here, how large in the donor."""
    found, compared = [], False
    middle = finite_mean(base)
    sizes_of_base = row_norms(base, middle=middle)
    for served in rows.plan.approximated:
        if served.donor is None:
            continue
        compared = True
        donor = vocabulary_first(served.donor.execute(), served.donor_axis)
        centre = finite_mean(donor)
        sizes = Distances(
            out=row_norms(matrix, served.rows, middle),
            base=sizes_of_base,
            donor=row_norms(donor, served.coding.targets, centre),
            donor_anchors=row_norms(donor, served.coding.anchors, centre),
        )
        for place in np.flatnonzero(sizes.suspicious):
            found.append(
                (
                    int(served.rows[place]),
                    float(sizes.out_times[place]),
                    float(sizes.donor_share[place]),
                )
            )
    return sorted(found, key=lambda one: -one[1])[:WORST] if compared else None


def _check(
    model: str,
    entry: dict[str, Any],
    base: Float[Tensor, "base_rows dim"],
    planned: Replanned | None,
    compared: Replanned | None,
    wanted: Wanted,
) -> HeldOut | None:
    assert planned is not None
    rows = planned.tensors[model, entry["tensor"]]
    served = _largest(rows)
    if served is None:
        return None
    method = served.approximation
    if compared is not None:
        # Planned with a method that reads the donor's rows, so that others can be compared.
        rows = compared.tensors[model, entry["tensor"]]
        served = _largest(rows) or served
    donor = (compared or planned).donors.get(
        str(served.donor.model) if served.donor is not None else "", planned.output
    )
    return held_out(
        served,
        rows.vocabulary,
        donor,
        [planned.output.content[i] for i in served.rows],
        base,
        wanted.hidden,
        all_methods(method) if wanted.compare else [method],
    )


def _largest(rows: PlannedRows) -> ApproximatedRows | None:
    """The rows of the donor that serves most of them."""
    return max(rows.plan.approximated, key=lambda served: len(served.rows), default=None)
