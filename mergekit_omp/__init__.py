"""mergekit-omp: give a model another model's tokenizer, training-free, inside any mergekit merge.

Importing this installs the hook that registers the merge methods; public names load when used.
"""

from mergekit_omp import autoload

TYPE_CHECKING = False  # `typing` is too slow to import at every interpreter start
if TYPE_CHECKING:
    from mergekit_omp.evaluation import bits_per_byte
    from mergekit_omp.pursuit import SparseCode, orthogonal_matching_pursuit
    from mergekit_omp.vocabulary import Alignment, Vocabulary, align

__version__ = "0.1.0"
__all__ = [
    "Alignment",
    "SparseCode",
    "Vocabulary",
    "__version__",
    "align",
    "bits_per_byte",
    "orthogonal_matching_pursuit",
]

# Hidden from type checkers: to them any name at all would exist.
if not TYPE_CHECKING:
    _HOMES = {
        "evaluation": ["bits_per_byte"],
        "pursuit": ["SparseCode", "orthogonal_matching_pursuit"],
        "vocabulary": ["Alignment", "Vocabulary", "align"],
    }

    def __getattr__(name):
        import importlib

        for home, names in _HOMES.items():
            if name in names:
                return getattr(importlib.import_module(f"mergekit_omp.{home}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})


autoload.install()
