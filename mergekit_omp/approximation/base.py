"""The one abstract class of all approximations, and its refinement for those that code in anchors.

An approximation turns a `Problem` (one vocabulary tensor, some of whose rows are missing) into
the missing rows. Its pydantic fields are its parameters; they become the parameters of the merge
methods, and are validated once, at construction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, Field
from torch import Tensor

from mergekit_omp.approximation.moments import mean_row
from mergekit_omp.approximation.norms import match_norms
from mergekit_omp.pursuit import Code


class Part(str, Enum):
    """Which vocabulary tensor of a model a problem is about."""

    INPUT = "input"
    HEAD = "head"
    HEAD_BIAS = "head_bias"

    def seed(self, seed: int) -> int:
        """A seed of this part's own, so that input and head do not get the same sample."""
        return seed + list(Part).index(self)


class Needs(str, Enum):
    """What an approximation reads beside the base's own matrix. Only that is loaded."""

    DONOR_ROWS = "donor_rows"
    OTHER_MATRIX = "other_matrix"
    """The same tokens' rows of the donor's other matrix, where it has two."""
    TEXT = "text"


Segmenter: TypeAlias = Callable[[Sequence[bytes]], list[list[int]]]
"""Cuts byte strings into tokens, whose rows it gives."""


@dataclass(frozen=True, eq=False)
class Texts:
    """What the tokens of a problem say, for approximations that read text.

    `None` stands for a control token or an id without a token: these are never spelled out.
    """

    missing: Sequence[bytes | None]
    """The bytes of each missing token."""
    base: Sequence[bytes | None]
    """The bytes of each row of the base's matrix."""
    donor: Sequence[bytes | None]
    """The bytes of each row of the donor's matrix."""
    segment_in_base: Segmenter
    """Segments byte strings with the base's tokenizer: base rows of the pieces."""
    segment_in_donor: Segmenter
    """Segments byte strings with the donor's tokenizer: donor rows of the pieces."""


@dataclass(frozen=True, eq=False)
class CodingInputs:
    """The part of a problem that is the same for every base model of one vocabulary.

    `anchor_rows[i]` is the row of the base's matrix that belongs to `anchors[i]`. Tensors that
    the approximation does not need (see `Approximation.needs`) are None.
    """

    missing: int
    anchor_rows: Int[Tensor, "anchors"]
    targets: Float[Tensor, "missing donor_dim"] | None = None
    anchors: Float[Tensor, "anchors donor_dim"] | None = None
    donor: Float[Tensor, "donor_rows donor_dim"] | None = None
    other_targets: Float[Tensor, "missing other_dim"] | None = None
    """The donor's rows of the missing tokens in its other matrix (its head, where the space is
    its input embedding); a row that is not there is not finite."""
    other_anchors: Float[Tensor, "anchors other_dim"] | None = None
    texts: Texts | None = None
    progress: bool = False
    in_force: dict[str, Any] = field(default_factory=dict)
    """Written by the method: values of parameters that it chose or reduced while it ran."""


@dataclass(frozen=True, eq=False)
class MissingRows:
    """One vocabulary tensor of one base model, whose missing rows are to be approximated."""

    part: Part
    base: Float[Tensor, "base_rows base_dim"]
    inputs: CodingInputs


@dataclass(frozen=True)
class Sizes:
    """How large a problem is, as headers and tokenizers tell before any row is read."""

    missing: int
    anchors: int
    base_rows: int
    base_dim: int
    donor_dim: int
    """Numbers in a row of the donor's matrix; of the base's where the method reads no donor."""
    other_dim: int = 0
    """Numbers in a row of the donor's other matrix, where the method reads it."""
    dtype: torch.dtype = torch.float32
    """What the donor's rows are stored in."""
    device: str = "cpu"


@dataclass(frozen=True)
class Cost:
    """What a method takes for a problem of some size, beside reading and writing rows."""

    multiply_adds: float = 0.0
    """Those of the products that dominate, weighted by how fast they go against those of a large
    float32 product; 0 where none takes long."""
    bytes: int = 0
    """Working memory, where it is more than a few hundred megabytes."""
    search: str | None = None
    """How it searches, where it has a choice."""


def all_similarities(sizes: Sizes) -> Cost:
    """What it costs to compare every missing token with every anchor."""
    return Cost(float(sizes.missing) * sizes.anchors * sizes.donor_dim)


class Approximation(BaseModel, ABC, frozen=True, extra="forbid"):
    """A training-free way to find missing rows. Fields are its parameters."""

    name: ClassVar[str]
    """The word for it in `merge_method:`."""
    reference: ClassVar[str | None] = None
    """Where it was published."""
    instead_of_donor_rows: ClassVar[str | None] = None
    """The parameter that spares a method which `needs` the donor's rows these rows, as it is to
    be written; None where there is none."""

    rescale_norms: bool = Field(
        default=False,
        description="Give the approximated rows the norm distribution of the base's rows "
        "(quantile by quantile; directions stay, a head's biases are left alone).",
    )

    @property
    def needs(self) -> frozenset[Needs]:
        """What this instance reads beside the base's own matrix."""
        return frozenset()

    @property
    def copies_shared(self) -> bool:
        """Whether shared tokens keep their rows; if not, they too are approximated."""
        return True

    def space_part(self, part: Part) -> Part:
        """The donor's tensor whose rows serve as the space of a problem about `part`.

        INPUT or HEAD; problems with the same one have the same code.
        """
        return Part.INPUT if part == Part.INPUT else Part.HEAD

    def cost(self, sizes: Sizes) -> Cost:
        """What a problem of these sizes takes. ValueError where the method would refuse it."""
        return Cost()

    def clamped(self, sizes: Sizes) -> Approximation:
        """The method with its parameters as they hold for a problem of these sizes.

        A parameter that was left open is chosen, and one that asks for more than there is
        reduced, as far as the sizes tell; the rest is written to `CodingInputs.in_force` later.
        """
        return self

    def parameters_in_force(self, inputs: CodingInputs) -> dict[str, Any]:
        """The parameters with which the method worked on `inputs`, as values for JSON."""
        return {**self.model_dump(mode="json"), **inputs.in_force}

    def rows(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        """The missing rows, computed in float32 (float64 where the base's matrix is)."""
        return self._finish(self.approximate(problem), problem.base, problem.part)

    @abstractmethod
    def approximate(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        """The missing rows before what every method shares (`rescale_norms`) is applied."""

    def _finish(
        self,
        rows: Float[Tensor, "missing base_dim"],
        base: Float[Tensor, "base_rows base_dim"],
        part: Part,
    ) -> Float[Tensor, "missing base_dim"]:
        if self.rescale_norms and part != Part.HEAD_BIAS:
            return match_norms(rows, base)
        return rows


class AnchorCoding(Approximation, ABC, frozen=True, extra="forbid"):
    """An approximation whose weights come from the donor's space alone.

    They are found once (`encode`) and serve every base model that shares the vocabulary
    (`decode`). `rows` does both.
    """

    weights_from: Literal["separate", "embed"] = Field(
        default="separate",
        description="Where the weights of the head come from: `separate` codes the head in the "
        "donor's head, `embed` reuses those found in the donor's input embedding.",
    )

    @property
    def needs(self) -> frozenset[Needs]:
        return frozenset({Needs.DONOR_ROWS})

    def space_part(self, part: Part) -> Part:
        return Part.INPUT if self.weights_from == "embed" else super().space_part(part)

    @abstractmethod
    def encode(self, inputs: CodingInputs) -> Code:
        """Weights for each missing token, over rows of the *base's* matrix."""

    def decode(
        self,
        code: Code,
        base: Float[Tensor, "base_rows base_dim"],
        anchor_rows: Int[Tensor, "anchors"],
        part: Part,
    ) -> Float[Tensor, "missing base_dim"]:
        """The missing rows of one base model, from weights that `encode` found.

        `base` is the base's matrix, `part` says which; `anchor_rows` are those of the inputs that
        were encoded. float32, or float64 where `base` is.
        """
        return self._finish(self._combine(code, base, anchor_rows, part), base, part)

    def approximate(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        inputs = problem.inputs
        return self._combine(self.encode(inputs), problem.base, inputs.anchor_rows, problem.part)

    def _combine(
        self,
        code: Code,
        base: Float[Tensor, "base_rows base_dim"],
        anchor_rows: Int[Tensor, "anchors"],
        part: Part,
    ) -> Float[Tensor, "missing base_dim"]:
        rows = code.decode(base)
        uncoded = (code.support_sizes() == 0).to(rows.device)
        if uncoded.any():
            rows[uncoded] = self._fallback(int(uncoded.sum()), base, part)
        return rows

    def _fallback(
        self, count: int, base: Float[Tensor, "base_rows base_dim"], part: Part
    ) -> Float[Tensor, "count base_dim"]:
        """Rows for tokens without a code: their donor row is zero, not finite or not there."""
        return mean_row(base).expand(count, -1)
