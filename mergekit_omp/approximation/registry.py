"""Every approximation by its name, in the order in which they are listed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mergekit_omp.approximation.base import Approximation, Needs
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
from mergekit_omp.approximation.zett import Zett

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
            Zett,
        )
    }
)


def without_donor_rows() -> str:
    """The methods that work with a donor that has a tokenizer and no weights, as part of a
    sentence."""
    # Built without validation, so that methods with a required parameter can be asked too.
    kinds = {name: kind.model_construct() for name, kind in APPROXIMATIONS.items()}
    none = [name for name, kind in kinds.items() if Needs.DONOR_ROWS not in kind.needs]
    spared: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        if name not in none and kind.instead_of_donor_rows is not None:
            spared.setdefault(kind.instead_of_donor_rows, []).append(name)
    return f"{_listed(none)} need no donor weights" + "".join(
        f", nor do {_listed(names)} with {setting}" for setting, names in spared.items()
    )


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
