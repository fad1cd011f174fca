"""Ways to fill in the rows of missing tokens: tensors in, rows out. Usable as a library."""

from mergekit_omp.approximation.anchors import WITHOUT_DONOR_ROWS
from mergekit_omp.approximation.base import (
    AnchorCoding,
    Approximation,
    CodingInputs,
    Needs,
    Part,
    Problem,
    Texts,
)
from mergekit_omp.approximation.codes import FactoredCode, RaggedCode
from mergekit_omp.approximation.registry import APPROXIMATIONS
from mergekit_omp.pursuit import Code

__all__ = [
    "APPROXIMATIONS",
    "WITHOUT_DONOR_ROWS",
    "AnchorCoding",
    "Approximation",
    "Code",
    "CodingInputs",
    "FactoredCode",
    "Needs",
    "Part",
    "Problem",
    "RaggedCode",
    "Texts",
]
