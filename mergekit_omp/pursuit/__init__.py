"""Sparse coding over a dictionary of atoms: torch, and Numba where it is installed.

The solver loads when it is used: Numba takes long to import, and most merges need no pursuit.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mergekit_omp.pursuit.sparse_code import Code, SparseCode

if TYPE_CHECKING:
    from mergekit_omp.pursuit.solve import orthogonal_matching_pursuit

# The one logger of the package: there before what loads late, for those who listen from the start.
LOG = logging.getLogger(__name__)

__all__ = ["Code", "SparseCode", "orthogonal_matching_pursuit"]


def __getattr__(name: str) -> object:
    if name != "orthogonal_matching_pursuit":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mergekit_omp.pursuit.solve import orthogonal_matching_pursuit

    return orthogonal_matching_pursuit
