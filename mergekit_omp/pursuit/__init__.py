"""Sparse coding over a dictionary of atoms: torch, and Numba where it is installed."""

from mergekit_omp.pursuit.solve import orthogonal_matching_pursuit
from mergekit_omp.pursuit.sparse_code import SparseCode

__all__ = ["SparseCode", "orthogonal_matching_pursuit"]
