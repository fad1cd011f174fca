"""Ways to fill in the rows of missing tokens: tensors in, rows out. Usable as a library."""

from mergekit_omp.approximation.base import (
    AnchorCoding,
    Approximation,
    DonorSpace,
    Needs,
    Part,
    Problem,
    Texts,
)

__all__ = [
    "AnchorCoding",
    "Approximation",
    "DonorSpace",
    "Needs",
    "Part",
    "Problem",
    "Texts",
]
