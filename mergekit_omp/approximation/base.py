"""The one abstract class of all approximations, and its refinement for those that code in anchors.

An approximation turns a `Problem` (one vocabulary tensor, some of whose rows are missing) into
the missing rows. Its pydantic fields are its parameters; they become the parameters of the merge
methods, and are validated once, at construction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from jaxtyping import Float, Int
from pydantic import BaseModel
from torch import Tensor

from mergekit_omp.pursuit import SparseCode


class Part(str, Enum):
    """Which vocabulary tensor of a model a problem is about."""

    INPUT = "input"
    HEAD = "head"
    HEAD_BIAS = "head_bias"


class Needs(str, Enum):
    """What an approximation reads beside the base's own matrix. Only that is loaded."""

    DONOR_ROWS = "donor_rows"
    TEXT = "text"


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
    segment_in_base: Callable[[Sequence[bytes]], list[list[int]]]
    """Segments byte strings with the base's tokenizer: base rows of the pieces."""
    segment_in_donor: Callable[[Sequence[bytes]], list[list[int]]]
    """Segments byte strings with the donor's tokenizer: donor rows of the pieces."""


@dataclass(frozen=True, eq=False)
class DonorSpace:
    """The part of a problem that is the same for every base model of one vocabulary.

    `anchor_rows[i]` is the row of the base's matrix that belongs to `anchors[i]`. Tensors that
    the approximation does not need (see `Approximation.needs`) are None.
    """

    missing: int
    anchor_rows: Int[Tensor, "anchors"]
    targets: Float[Tensor, "missing donor_dim"] | None = None
    anchors: Float[Tensor, "anchors donor_dim"] | None = None
    donor: Float[Tensor, "donor_rows donor_dim"] | None = None
    texts: Texts | None = None
    progress: bool = False


@dataclass(frozen=True, eq=False)
class Problem:
    """One vocabulary tensor of one base model, whose missing rows are to be approximated."""

    part: Part
    base: Float[Tensor, "base_rows base_dim"]
    space: DonorSpace


class Approximation(BaseModel, ABC, frozen=True, extra="forbid"):
    """A training-free way to fill in missing rows. Fields are its parameters."""

    name: ClassVar[str]
    """The word for it in `merge_method:`."""
    reference: ClassVar[str | None] = None
    """Where it was published."""
    needs: ClassVar[frozenset[Needs]] = frozenset()

    @abstractmethod
    def rows(self, problem: Problem) -> Float[Tensor, "missing base_dim"]:
        """The missing rows, computed in float32 (float64 where the base's matrix is)."""


class AnchorCoding(Approximation, ABC, frozen=True, extra="forbid"):
    """An approximation whose weights come from the donor's space alone.

    They are found once and serve every base model that shares the vocabulary.
    """

    needs: ClassVar[frozenset[Needs]] = frozenset({Needs.DONOR_ROWS})

    @abstractmethod
    def encode(self, space: DonorSpace) -> SparseCode:
        """Weights for each missing token; `indices` are rows of the *base's* matrix."""

    def rows(self, problem: Problem) -> Float[Tensor, "missing base_dim"]:
        return self.encode(problem.space).decode(problem.base)
