"""The facts as JSON: what docs/inspect.md documents. Keys are only ever added."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mergekit_omp.inspection.checks import warnings
from mergekit_omp.inspection.facts import NUMBER, Digits, Facts, ModelFacts
from mergekit_omp.inspection.sample import Reading
from mergekit_omp.outside import display
from mergekit_omp.transplant.control import ControlToken

FORMAT = 1


def as_json(facts: Facts) -> str:
    """One JSON object."""
    return display.as_json(_contents(facts))


def nothing_to_inspect(merge_method: str) -> str:
    """The object for a merge by a method of mergekit's own: the keys are there, and empty."""
    empty = {"format": FORMAT, "merge_method": merge_method, "output": None}
    return json.dumps({**empty, "models": [], "plan": [], "warnings": []}, indent=2)


def _contents(facts: Facts) -> dict[str, Any]:
    transplant = facts.run.transplant
    return {
        "format": FORMAT,
        "merge_method": transplant.request.method.spec.name,
        "approximation": transplant.request.method.approximation.name,
        "output": {
            "tokenizer_source": str(transplant.request.source),
            "tokens": transplant.output.tokens,
            "vocab_size": transplant.rows,
            "rows": transplant.rows,
        },
        "models": [_model(facts, model) for model in facts.models],
        "plan": [
            {
                "tensor": step.tensor,
                "part": step.part,
                "models": list(step.models),
                "method": step.method,
                "donor": step.donor,
                "donor_tensor": step.donor_tensor,
                "missing": step.missing,
                "anchors": step.anchors,
                "dimension": step.dimension,
                "search": step.search,
                "seconds": float(f"{step.multiply_adds * facts.seconds_per_multiply_add:.2g}"),
                "bytes": step.bytes,
            }
            for step in facts.steps
        ],
        "tokens_block": facts.block,
        "warnings": warnings(facts),
    }


def _model(facts: Facts, model: ModelFacts) -> dict[str, Any]:
    counts = model.counts
    tokens = facts.run.transplant.output.tokens
    return {
        "model": str(model.model),
        "donor": model.donors[0] if model.donors else None,
        "donors": list(model.donors),
        "shared": counts["shared"],
        "by_role": counts["by_role"],
        "by_string": counts["by_string"],
        "missing": counts["missing"],
        "padding": counts["padding"],
        "never_emitted": counts["never_emitted"],
        "out_of_range": counts["out_of_range"],
        "copied": counts["copied"],
        "approximated": counts["approximated"],
        "without_donor_row": counts["without_donor_row"],
        "overridden": counts["overridden"],
        "coverage": round(counts["copied"] / max(tokens, 1), 6),
        "digit_scheme": {"base": _digits(model.digits), "donor": _digits(facts.digits)},
        "bytes_per_token": {
            "base": _bytes_per_token(model.reading),
            "donor": _bytes_per_token(facts.reading),
        },
        "sample_coverage": {
            kind: _rounded(reading.share_of(model.kept)) for kind, reading in facts.reading.items()
        },
        "control_tokens": [_control(token) for token in model.control],
        "tensors": list(model.entries),
    }


def _digits(digits: Digits) -> dict[str, Any]:
    return {"scheme": digits.scheme.value, NUMBER: list(digits.example)}


def _bytes_per_token(readings: Mapping[str, Reading]) -> dict[str, float | None]:
    """Null for a text that the tokenizer cannot spell."""
    return {kind: _rounded(reading.bytes_per_token) for kind, reading in readings.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _control(token: ControlToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "token": token.token,
        "roles": list(token.roles),
        "gets": token.fate.value,
        "from": token.source,
        "from_model": token.source_model,
        "suppressed": token.suppressed,
    }
