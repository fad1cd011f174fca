"""What WECHSEL, FOCUS and CLP share: vectors to compare tokens by, and rows for tokens without one.

The originals compare tokens by word vectors of their texts, trained apart from the models. Here
the donor's rows are the space, unless `auxiliary` names a file of such vectors.
"""

from __future__ import annotations

import logging
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from mergekit_omp.approximation.anchors import donor_rows, require_anchors
from mergekit_omp.approximation.auxiliary import VectorsFile, load_vectors
from mergekit_omp.approximation.base import (
    AnchorCoding,
    CodingInputs,
    Cost,
    Needs,
    Part,
    Sizes,
    all_similarities,
    texts_of,
)
from mergekit_omp.approximation.codes import working_dtype
from mergekit_omp.approximation.moments import normal_rows
from mergekit_omp.approximation.parameters import Seed

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Similarities:
    """Vectors of missing tokens and of tokens that the base has, in one space.

    `rows[i]` is the row of the base's matrix that belongs to `atoms[i]`. A target that is zero
    cannot be compared; atoms are finite and not zero.
    """

    targets: Float[Tensor, "missing dim"]
    atoms: Float[Tensor, "atoms dim"]
    rows: Int64[Tensor, "atoms"]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype to compute in."""
        return working_dtype(self.targets, self.atoms)


class SimilarityCoding(AnchorCoding, ABC, frozen=True):
    """Weights from cosine similarities, in the donor's space or in that of a file of vectors."""

    instead_of_donor_rows: ClassVar[str | None] = "`auxiliary: <file of vectors>`"

    auxiliary: VectorsFile | None = Field(
        default=None,
        description="A file of word vectors (.vec, .vec.gz, or .safetensors keyed by token) to "
        "compare tokens by, instead of by the donor's rows.",
    )
    seed: Seed = Field(
        default=0,
        description="Starts the random generator for tokens that have no vector: they get a "
        "sample with the mean and deviation of the base's rows.",
    )

    def cost(self, sizes: Sizes) -> Cost:
        return all_similarities(sizes)

    @property
    def needs(self) -> frozenset[Needs]:
        return frozenset({Needs.TEXT if self.auxiliary else Needs.DONOR_ROWS})

    def space_part(self, part: Part) -> Part:
        # Word vectors are the same for input and head, and so is the code.
        return Part.INPUT if self.auxiliary else super().space_part(part)

    def _among_anchors(self, inputs: CodingInputs) -> Similarities:
        """The vectors of missing tokens and of anchors."""
        if self.auxiliary is None:
            targets, atoms, rows = donor_rows(self.name, inputs)
            return Similarities(targets=targets, atoms=atoms, rows=rows)
        rows = inputs.anchor_rows.to("cpu", torch.int64)
        require_anchors(self.name, len(rows))
        return self._by_vectors(inputs, rows)

    def _by_vectors(self, inputs: CodingInputs, rows: Int64[Tensor, "candidates"]) -> Similarities:
        """Vectors from the file: of missing tokens, and of the base's tokens at `rows`."""
        assert self.auxiliary is not None
        texts = texts_of(self.name, inputs)
        words: Sequence[bytes | None] = [
            *texts.missing,
            *(texts.base[row] for row in rows.tolist()),
        ]
        vectors, usable = load_vectors(self.auxiliary, words)
        targets, atoms = vectors[: inputs.missing], vectors[inputs.missing :]
        usable_atoms = usable[inputs.missing :]
        if not usable_atoms.any():
            raise ValueError(
                f"{self.name}: none of the {len(rows)} tokens that the base shares or has is in "
                f"{self.auxiliary}; give vectors for these texts, or leave `auxiliary` out"
            )
        LOG.info(
            "%s: %d of %d missing tokens and %d of %d of the base's have a vector in %s",
            self.name,
            int(usable[: inputs.missing].sum()),
            inputs.missing,
            int(usable_atoms.sum()),
            len(rows),
            self.auxiliary,
        )
        return Similarities(targets=targets, atoms=atoms[usable_atoms], rows=rows[usable_atoms])

    def _fallback(
        self, count: int, base: Float[Tensor, "base_rows base_dim"], part: Part
    ) -> Float[Tensor, "count base_dim"]:
        """Random rows for tokens without a vector, as the original methods give them."""
        return normal_rows(count, base, part.seed(self.seed))
