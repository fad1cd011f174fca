"""Donors: models from whose rows the rows of missing tokens are approximated."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mergekit.common import ModelReference
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions

from mergekit_omp.approximation import Part, without_donor_rows
from mergekit_omp.errors import TransplantError
from mergekit_omp.models.checkpoint import stored_tensors
from mergekit_omp.models.completeness import own_architecture
from mergekit_omp.models.configs import read_config
from mergekit_omp.models.numbers import check_donor, check_vocabulary_tensor
from mergekit_omp.models.tensors import (
    VocabularyTensor,
    architecture_of,
    says_tied,
    vocabulary_parts,
    vocabulary_tensors,
)
from mergekit_omp.models.weight_files import check_weights
from mergekit_omp.outside.faults import of_library
from mergekit_omp.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Donor:
    """A donor. It need not be part of the merge."""

    model: ModelReference
    vocabulary: Vocabulary
    tensors: dict[Part, VocabularyTensor]
    warnings: tuple[str, ...] = ()

    def tensor(self, part: Part) -> VocabularyTensor:
        """The tensor for `part`.

        The input embedding where the donor has no such tensor (it is tied).
        """
        return self.tensors[part] if part in self.tensors else self.tensors[Part.INPUT]


def load_donor(
    model: ModelReference, vocabulary: Vocabulary, method: str, options: MergeOptions
) -> Donor:
    """A donor and its vocabulary tensors, of which no data is read yet.

    Raises TransplantError where its weights cannot be read, and names the methods that need none;
    `method` is the one that was asked for.
    """
    without = (
        f"{method!r} finds missing tokens in the donor's rows: name a donor with weights, or use "
        f"another method: {without_donor_rows()}."
    )
    if os.path.exists(model.model.path):
        try:
            check_weights(model.model.path, "The donor")
        except TransplantError as error:
            raise TransplantError(f"{error} {without}") from error
    with of_library(f"The donor {model} has a tokenizer but no weights that can be read", without):
        LoaderCache().get(model)
    read_config(model, trust_remote_code=options.trust_remote_code)
    architecture = architecture_of(model, options)
    tensors = vocabulary_tensors(model, architecture)
    if Part.INPUT not in tensors and (own := own_architecture(model, options)):
        architecture = own
        tensors = vocabulary_tensors(model, own)
    check_donor(model, stored_tensors(model), list(vocabulary_parts(architecture)))
    if not tensors:
        raise TransplantError(
            f"The donor {model} has no vocabulary tensor that mergekit knows of. Name another "
            "donor."
        )
    for tensor in tensors.values():
        check_vocabulary_tensor(tensor)
    if Part.INPUT not in tensors:
        tensors[Part.INPUT] = tensors[Part.HEAD]
    warnings: tuple[str, ...] = ()
    has_head = Part.HEAD in vocabulary_parts(architecture).values()
    if has_head and Part.HEAD not in tensors and not says_tied(architecture.config):
        warnings = (
            f"The donor {model} says that its head is a matrix of its own (tie_word_embeddings: "
            f"false), but its checkpoint has none: {tensors[Part.INPUT].weight.name} is used in "
            "its place.",
        )
    return Donor(model=model, vocabulary=vocabulary, tensors=tensors, warnings=warnings)
