"""Every approximation by its name, in the order in which they are listed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mergekit_omp.approximation.base import Approximation
from mergekit_omp.approximation.clp import Clp
from mergekit_omp.approximation.focus import Focus
from mergekit_omp.approximation.knn import Knn
from mergekit_omp.approximation.kriging import Kriging
from mergekit_omp.approximation.linear import Linear
from mergekit_omp.approximation.mean import Mean
from mergekit_omp.approximation.normal import Normal
from mergekit_omp.approximation.omp import Omp
from mergekit_omp.approximation.subword import Subword
from mergekit_omp.approximation.wechsel import Wechsel
from mergekit_omp.approximation.zero import Zero

APPROXIMATIONS: Mapping[str, type[Approximation]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Omp,
            Mean,
            Zero,
            Wechsel,
            Focus,
            Kriging,
            Subword,
            Clp,
            Knn,
            Linear,
            Normal,
        )
    }
)
