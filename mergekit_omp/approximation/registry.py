"""Every approximation by its name, in the order in which they are listed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mergekit_omp.approximation.base import Approximation
from mergekit_omp.approximation.mean import Mean
from mergekit_omp.approximation.omp import Omp
from mergekit_omp.approximation.zero import Zero

APPROXIMATIONS: Mapping[str, type[Approximation]] = MappingProxyType(
    {kind.name: kind for kind in (Omp, Mean, Zero)}
)
