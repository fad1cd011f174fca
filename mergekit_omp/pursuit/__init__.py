"""Sparse coding over a dictionary of atoms. Torch only; usable as a library."""

from mergekit_omp.pursuit.sparse_code import SparseCode

__all__ = ["SparseCode"]
