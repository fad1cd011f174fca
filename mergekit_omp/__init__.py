"""mergekit-omp: give a model another model's tokenizer, training-free, inside any mergekit merge.

Importing this installs the hook that registers the merge methods; public names load when used.
"""

from mergekit_omp import autoload

TYPE_CHECKING = False  # `typing` is too slow to import at every interpreter start
if TYPE_CHECKING:
    from mergekit_omp.pursuit import SparseCode, orthogonal_matching_pursuit
    from mergekit_omp.vocabulary import Alignment, Vocabulary, align

__version__ = "0.1.0"
__all__ = ["Alignment", "SparseCode", "Vocabulary", "align", "orthogonal_matching_pursuit"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    home = "pursuit" if name in ("SparseCode", "orthogonal_matching_pursuit") else "vocabulary"
    return getattr(importlib.import_module(f"mergekit_omp.{home}"), name)


autoload.install()
