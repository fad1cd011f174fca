"""Puts a report together: the record first, then what the models at hand can add to it."""

from __future__ import annotations

from typing import Any

from mergekit.common import ModelReference
from mergekit.options import MergeOptions

from mergekit_omp.approximation import APPROXIMATIONS, Needs
from mergekit_omp.errors import TransplantError
from mergekit_omp.models.configs import read_config
from mergekit_omp.models.tensors import says_tied
from mergekit_omp.models.tokenizers import Vocabularies
from mergekit_omp.plugin.rehearsal import Replanned, replan
from mergekit_omp.report.contents import Report, Section
from mergekit_omp.report.out_dir import OutDir
from mergekit_omp.report.past_config import past_config
from mergekit_omp.report.sections import Wanted, section
from mergekit_omp.transplant.row_plan import vocabulary_first
from mergekit_omp.vocabulary import Vocabulary

_WITHOUT_MODELS = (
    "what single rows are made of, norms of the model's own rows, the held-out check and the search "
    "for outliers"
)


def build_report(out: OutDir, options: MergeOptions, wanted: Wanted) -> Report:
    """A report on `out`. Raises TransplantError where the output itself is not whole."""
    vocabulary = _output_vocabulary(out, options)
    planned, notes = _plan_again(out, options)
    compared = _plan_with_donor(out, options) if wanted.compare and planned is not None else None
    sections = []
    for m, model in enumerate(out.record["models"]):
        for t, entry in enumerate(model["tensors"]):
            sections.append(
                _section(out, (m, t), model["model"], entry, vocabulary, planned, wanted, compared)
            )
    if out.facts is None:
        notes.append(
            "The merge left no tokenizer_transplant.npz, so the fit of single tokens is not known."
        )
    return Report(
        name=out.path.resolve().name,
        record=out.record,
        config=out.config,
        sections=tuple(sections),
        notes=tuple(notes),
        compared=wanted.compare,
        tied=_one_matrix(out),
    )


def _one_matrix(out: OutDir) -> bool:
    """Whether the input embedding is the head too: encoders without a head have neither."""
    entries = [entry for model in out.record["models"] for entry in model["tensors"]]
    if not entries or any(entry["part"] == "head" for entry in entries):
        return False
    config = read_config(ModelReference.parse(str(out.path.resolve())))
    (kind, *_) = config.architectures or [""]
    return says_tied(config) and (kind.endswith("LMHeadModel") or not kind.endswith("Model"))


def _section(
    out: OutDir,
    key: tuple[int, int],
    model: str,
    entry: dict[str, Any],
    vocabulary: Vocabulary,
    planned: Replanned | None,
    wanted: Wanted,
    compared: Replanned | None,
) -> Section:
    rows = planned.tensors.get((model, entry["tensor"])) if planned is not None else None
    matrix = out.tensor(rows.output_name if rows is not None else entry["tensor"])
    axis = rows.axis if rows is not None else _axis(matrix.shape, entry["counts"]["rows"])
    facts = (out.facts or {}).get(key)
    matrix = vocabulary_first(matrix, axis)
    if len(matrix) != entry["counts"]["rows"]:
        raise TransplantError(
            f"{entry['tensor']} in {out.path} has {len(matrix)} rows, and the merge wrote "
            f"{entry['counts']['rows']}. The output was changed afterwards; merge again."
        )
    if facts is not None and len(facts.origin) != len(matrix):
        facts = None
    return section(model, entry, matrix, vocabulary, facts, planned, wanted, compared)


def _axis(shape: tuple[int, ...], rows: int) -> int:
    return next((axis for axis, length in enumerate(shape) if length == rows), 0)


def _output_vocabulary(out: OutDir, options: MergeOptions) -> Vocabulary:
    return Vocabularies(options).vocabulary(ModelReference.parse(str(out.path.resolve())))


def _plan_again(out: OutDir, options: MergeOptions) -> tuple[Replanned | None, list[str]]:
    """The merge's plan, or a note that says why there is none."""
    if out.config is None:
        return None, [
            f"Left out: {_WITHOUT_MODELS}. They need the merge's config, and {out.path.name} has "
            "no mergekit_config.yml."
        ]
    try:
        planned = replan(past_config(out.config), options)
    except TransplantError as error:
        return None, [
            f"Left out: {_WITHOUT_MODELS}. They need the models of the merge, which cannot be "
            f"read ({error}). Paths in the config are relative to the folder in which the merge "
            "ran: run this command there."
        ]
    changed = [
        entry["tensor"]
        for model in out.record["models"]
        for entry in model["tensors"]
        if not _same(planned, model["model"], entry)
    ]
    if changed:
        return None, [
            f"Left out: {_WITHOUT_MODELS}. The models are no longer those of the merge: "
            f"{changed[0]} would have other rows."
        ]
    return planned, []


def _same(planned: Replanned, model: str, entry: dict[str, Any]) -> bool:
    rows = planned.tensors.get((model, entry["tensor"]))
    if rows is None:
        return False
    plan = rows.plan
    return (
        plan.rows == entry["counts"]["rows"]
        and len(plan.copied_to) == entry["counts"]["copied"]
        and [len(served.rows) for served in plan.approximated]
        == [donor["missing"] for donor in entry["donors"]]
    )


def _plan_with_donor(out: OutDir, options: MergeOptions) -> Replanned | None:
    """Where the merge's method reads no donor rows: a plan with one that does, for comparison."""
    methods = {entry["method"] for model in out.record["models"] for entry in model["tensors"]}
    if not methods or all(Needs.DONOR_ROWS in APPROXIMATIONS[method]().needs for method in methods):
        return None
    assert out.config is not None
    try:
        return replan(past_config(out.config, method="kriging"), options)
    except TransplantError:
        # The donor has a tokenizer and no weights: methods that need them are reported as refused.
        return None
