"""Methods that approximate the rows of missing tokens, from tensors alone. Usable as a library."""

from mergekit_omp.approximation.base import (
    AnchorCoding,
    Approximation,
    CodingInputs,
    Cost,
    MissingRows,
    Needs,
    Part,
    Sizes,
    Texts,
)
from mergekit_omp.approximation.codes import FactoredCode, RaggedCode
from mergekit_omp.approximation.registry import APPROXIMATIONS, without_donor_rows
from mergekit_omp.pursuit import Code

__all__ = [
    "APPROXIMATIONS",
    "AnchorCoding",
    "Approximation",
    "Code",
    "CodingInputs",
    "Cost",
    "FactoredCode",
    "MissingRows",
    "Needs",
    "Part",
    "RaggedCode",
    "Sizes",
    "Texts",
    "without_donor_rows",
]
