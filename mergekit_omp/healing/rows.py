"""Which rows of which matrices are healed: those that no merged model had, by the merge's record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch import nn
from transformers import PreTrainedModel

from mergekit_omp.errors import TransplantError
from mergekit_omp.evaluation.models import approximated_ids
from mergekit_omp.models.known_model import KnownModel
from mergekit_omp.record import row_facts
from mergekit_omp.record.row_facts import Origin

_NEW = (Origin.APPROXIMATED, Origin.WITHOUT_DONOR_ROW)


@dataclass(frozen=True, eq=False)
class Matrix:
    """A vocabulary matrix of a loaded model, under its names, and the rows of it to train."""

    module: str
    """The module that holds it, as in `named_modules`."""
    tensors: tuple[str, ...]
    """What the checkpoint calls it; twice where a tied model's file has it twice."""
    part: str
    """"input" or "head"; the input of a tied model is its head as well."""
    tied: bool
    ids: Int64[np.ndarray, "ids"]


def new_rows(folder: Path, record: dict[str, Any]) -> dict[str, np.ndarray]:
    """For each tensor of the record by name, the rows that at least one merged model lacked."""
    facts = row_facts.load(folder, record)
    listed = approximated_ids(record, str(folder))
    found: dict[str, np.ndarray] = {}
    for m, model in enumerate(record["models"]):
        for t, entry in enumerate(model["tensors"]):
            if facts is not None and (m, t) in facts:
                rows = np.flatnonzero(np.isin(facts[m, t].origin, _NEW))
            elif listed is not None:
                rows = listed
            else:
                raise TransplantError(
                    f"The record in {folder} does not say which rows were approximated. Merge again."
                )
            found[entry["tensor"]] = np.union1d(found.get(entry["tensor"], rows[:0]), rows)
    return found


def check_named(record: dict[str, Any], names_in_file: set[str], name: str) -> None:
    """Refuse a record whose tensors are not those of the weights. Each merged model may have its own
    name for a part, of which the output has one."""
    of_part: dict[str, list[str]] = {}
    for model in record["models"]:
        for entry in model["tensors"]:
            of_part.setdefault(entry["part"], []).append(entry["tensor"])
    for names in of_part.values():
        if names_in_file.isdisjoint(names):
            raise TransplantError(
                f"The record in {name} names the tensor {names[0]}, which its weights lack: one of "
                "them was changed after the merge. Merge again."
            )


def matrices(
    model: PreTrainedModel,
    names_in_file: set[str],
    new: dict[str, np.ndarray],
    name: str,
    *,
    trust_remote_code: bool,
) -> list[Matrix]:
    """Input embedding and head of a model, one matrix where they are tied, with their new rows.

    `names_in_file` are the checkpoint's, `new` is of `new_rows`. TransplantError where a matrix of
    the model is not in the checkpoint as it is.
    """
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is inputs.weight
    keys = keys_of(model, names_in_file, trust_remote_code=trust_remote_code)

    def matrix(part: str, *modules: nn.Module) -> Matrix:
        named = [_name_of(model, module) for module in modules]
        held = [key for module in named for key in keys.get(f"{module}.weight", [])]
        if not held:
            raise TransplantError(
                f"{name} has its {part} under no name of its own in its weights, so that its rows "
                "cannot be written. Heal a causal language model whose weights are stored whole."
            )
        ids = [new[key] for key in held if key in new]
        every = np.concatenate([np.empty(0, dtype=np.int64), *ids])
        return Matrix(named[0], tuple(sorted(held)), part, tied, np.unique(every))

    if tied:
        return [matrix("input", inputs, head)]
    return [matrix("input", inputs)] + ([matrix("head", head)] if head is not None else [])


def keys_of(
    model: PreTrainedModel, names_in_file: set[str], *, trust_remote_code: bool
) -> dict[str, list[str]]:
    """What the checkpoint calls each tensor of the model that it holds as it is."""
    known = KnownModel(model.config, trust_remote_code=trust_remote_code).names(names_in_file)
    keys: dict[str, list[str]] = {}
    for key, renamed in known.items():
        if renamed is not None and renamed.whole:
            keys.setdefault(renamed.name, []).append(key)
    return keys


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)
