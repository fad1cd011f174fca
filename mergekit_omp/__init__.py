"""mergekit-omp: give a model another model's tokenizer, training-free, inside any mergekit merge.

Importing the package installs the hook that registers its merge methods once mergekit plans
a merge, and nothing else: every public name loads when it is first used.
"""

from mergekit_omp import autoload

# Not `typing.TYPE_CHECKING`: every interpreter start pays for what is imported here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mergekit_omp.pursuit import SparseCode, orthogonal_matching_pursuit
    from mergekit_omp.vocabulary import Alignment, Vocabulary, align

__version__ = "0.1.0"

_HOME = {
    "Alignment": "mergekit_omp.vocabulary",
    "SparseCode": "mergekit_omp.pursuit",
    "Vocabulary": "mergekit_omp.vocabulary",
    "align": "mergekit_omp.vocabulary",
    "orthogonal_matching_pursuit": "mergekit_omp.pursuit",
}

__all__ = [
    "Alignment",
    "SparseCode",
    "Vocabulary",
    "align",
    "orthogonal_matching_pursuit",
]


def __getattr__(name: str) -> "Any":
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


autoload.install()
