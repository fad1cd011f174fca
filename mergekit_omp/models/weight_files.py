"""Checks that the weight files of a checkpoint are there and complete, without reading the weights.

Headers are enough: they give the length that a file must have. Used before merges, reports and
evaluations.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pydantic
import safetensors
import torch

from mergekit_omp.errors import TransplantError
from mergekit_omp.outside.faults import of_library
from mergekit_omp.outside.files import read_json

NAMES = ("model.safetensors", "pytorch_model.bin")
"""The files that mergekit and transformers look for, in this order; each may have an index
instead."""
_WHOLE = "Copy or download the model again, whole, or name another."


class Index(pydantic.BaseModel):
    """`model.safetensors.index.json`: which file holds each tensor."""

    weight_map: dict[str, str] = pydantic.Field(min_length=1)


def check_weights(folder: str | os.PathLike[str], what: str) -> set[str]:
    """The names of all tensors in `folder`, from the headers of its files.

    Raises TransplantError, naming the file, where weights are missing, cut short or not where their
    index says; `what` ("The donor", "The model") begins its sentence.
    """
    root = Path(folder)
    if not root.is_dir():
        raise TransplantError(f"{what} {root} is a file. Name the directory of a model.")
    name = next((n for n in NAMES if _there(root / n) or _there(root / f"{n}.index.json")), None)
    if name is None:
        held = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
        raise TransplantError(
            f"{what} {root} has no weights: neither {NAMES[0]} nor {NAMES[1]} is in that "
            f"directory, which holds {held}. {_WHOLE}"
        )
    index = root / f"{name}.index.json"
    if not _there(index):
        return _names_in(root / name, what)
    places = read_json(index, Index, _WHOLE).weight_map
    held_by: dict[str, set[str]] = {}
    for file in dict.fromkeys(places.values()):
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            raise TransplantError(
                f"{index} places tensors in {file!r}, which is not in the model's directory. "
                f"{_WHOLE}"
            )
        if not (root / file).is_file():
            raise TransplantError(
                f"{index} places tensors in {file}, which is not in that directory. {_WHOLE}"
            )
        held_by[file] = _names_in(root / file, what)
    for tensor, file in places.items():
        if tensor not in held_by[file]:
            raise TransplantError(
                f"{index} places the tensor {tensor!r} in {file}, which does not hold it. {_WHOLE}"
            )
    return set(places)


def _there(path: Path) -> bool:
    return os.path.lexists(path)


def _names_in(file: Path, what: str) -> set[str]:
    """The names of the tensors in one file. A pickle is read without running code that it holds."""
    if not file.is_file():
        raise TransplantError(f"{what} has no weights in {file}, which is no file. {_WHOLE}")
    with of_library(f"{what} has weights that cannot be read in {file}", _WHOLE):
        if file.suffix == ".safetensors":
            with safetensors.safe_open(file, framework="pt") as opened:
                return set(opened.keys())
        # On the meta device torch reads the structure of the pickle and skips the data.
        pickled = torch.load(file, map_location="meta", weights_only=True)
    if isinstance(pickled, dict) and isinstance(pickled.get("state_dict"), dict):
        pickled = pickled["state_dict"]
    if not isinstance(pickled, dict):
        raise TransplantError(
            f"{what} has no tensors by name in {file}, but a {type(pickled).__name__}. {_WHOLE}"
        )
    return set(pickled)
