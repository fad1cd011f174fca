"""The model card: mergekit's own, generated without network access, with a section on the
transplant."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import yaml
from mergekit import card as mergekit_card
from mergekit.common import ModelReference
from mergekit.io.tasks import LoaderCache

from mergekit_omp.record.model_card import CardModel, with_transplant
from mergekit_omp.record.shown_names import ShownNames


def transplant_card(
    write: Callable[[], str],
    record: dict[str, Any],
    models: Sequence[ModelReference],
    shown: ShownNames,
) -> str:
    """The card of a merge.

    `write` returns mergekit's; `record`: the content of the merge's record.
    """
    with _folders_are_not_looked_up():
        card = write()
    return with_transplant(
        card,
        record,
        [card_model for model in models for card_model in _named(model)],
        shown,
    )


def _named(model: ModelReference) -> list[CardModel]:
    """A model, and its adapter if it has one."""
    found = [CardModel(model.model.path, _licence(model))]
    return [*found, CardModel(model.lora.path, None)] if model.lora else found


@contextlib.contextmanager
def _folders_are_not_looked_up() -> Iterator[None]:
    """mergekit asks the Hub about every path of one or two parts.

    Answer for local folders ourselves.
    """
    original = mergekit_card.is_hf
    mergekit_card.is_hf = lambda path: not os.path.exists(path) and original(path)
    try:
        yield
    finally:
        mergekit_card.is_hf = original


def _licence(model: ModelReference) -> str | None:
    """The licence in the model's own card, if that is in a local folder or beside the weights."""
    loader = LoaderCache().loaders.get(model)
    folders = [model.model.path, *([loader.index.base_path] if loader else [])]
    for folder in folders:
        try:
            with open(os.path.join(folder, "README.md"), encoding="utf-8") as file:
                opening, found, rest = file.read().partition("---\n")
            matter = yaml.safe_load(rest.partition("\n---")[0]) if found and not opening else None
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(matter, dict) and isinstance(matter.get("license"), str):
            name = matter.get("license_name")
            other = matter["license"] == "other" and isinstance(name, str)
            return str(name if other else matter["license"])
    return None
