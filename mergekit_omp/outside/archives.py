"""Archives of arrays (`.npz`), of which only what was announced is unpacked."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping

import numpy as np

from mergekit_omp.errors import TransplantError
from mergekit_omp.outside.faults import of_library

_HEADER = 4096
"""Bytes that may come before an array's numbers."""


def read_arrays(
    path: str | os.PathLike[str], wanted: Mapping[str, tuple[np.dtype, int]], remedy: str
) -> dict[str, np.ndarray]:
    """The arrays of one dimension that `wanted` gives the dtypes and lengths of, where it has them.

    TransplantError where the archive holds anything else, before it is unpacked.
    """
    with of_library(f"{path} is no archive", remedy), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name not in wanted:
            raise TransplantError(
                f"{path} holds {name!r}, which its record does not account for. {remedy}"
            )
        dtype, length = wanted[name]
        if member.file_size > length * dtype.itemsize + _HEADER:
            raise TransplantError(
                f"{path}: {name} unpacks to {member.file_size} bytes, and its record accounts for "
                f"{length} numbers. {remedy}"
            )
    with of_library(f"{path} is damaged", remedy), np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    for name, array in found.items():
        dtype, length = wanted[name]
        if array.dtype != dtype or array.shape != (length,):
            raise TransplantError(
                f"{path}: {name} is {array.dtype} of shape {array.shape}, and its record accounts "
                f"for {length} numbers of {dtype}. {remedy}"
            )
    return found
