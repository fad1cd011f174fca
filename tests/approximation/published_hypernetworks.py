"""The hypernetworks that the original was run with, and what it was run on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_hypernetworks import ORACLES, source_rows
from torch import Tensor

from mergekit_omp.approximation import Part
from mergekit_omp.vocabulary.content import ALPHABET

CUT = json.loads((ORACLES / "surface_forms.json").read_text())
"""The pieces that the original cuts every token of the target into."""
TOKENS = [token.translate(ALPHABET).encode("latin-1") for token in CUT["tokens"]]
"""The bytes of these tokens."""
MATRICES = {Part.INPUT: source_rows()["embed"], Part.HEAD: source_rows()["head"]}


def matrices(name: str) -> dict[Part, Tensor]:
    """The base's matrices that the hypernetwork `name` reads."""
    return {Part.INPUT: MATRICES[Part.INPUT]} if name == "tied_language" else MATRICES


def change_tokenizer(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the model in the tokenizer.json of a hypernetwork."""
    found = json.loads((path / "tokenizer.json").read_text())
    change(found["model"])
    (path / "tokenizer.json").write_text(json.dumps(found))
