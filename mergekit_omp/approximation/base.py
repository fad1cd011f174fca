"""The abstract class of all approximations, and its refinement for those that weigh anchors.

An approximation turns a `MissingRows` (one vocabulary tensor, some of whose rows are missing) into
the missing rows. Its pydantic fields are its parameters; they become the parameters of the merge
methods, and are validated once, at construction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, Field
from torch import Tensor

from mergekit_omp.approximation.fit import ANCHORS, Fit, Parts
from mergekit_omp.approximation.moments import mean_row
from mergekit_omp.approximation.norms import match_norms
from mergekit_omp.approximation.once import Once
from mergekit_omp.approximation.shared import Shared
from mergekit_omp.pursuit import Code

T = TypeVar("T")


class Part(str, Enum):
    """Which vocabulary tensor of a model a problem is about."""

    INPUT = "input"
    HEAD = "head"
    HEAD_BIAS = "head_bias"

    def seed(self, seed: int) -> int:
        """A seed of this part's own, so that input and head do not get the same sample."""
        return seed + list(Part).index(self)


class Needs(str, Enum):
    """What an approximation reads besides the base's own matrix. Nothing else is loaded."""

    DONOR_ROWS = "donor_rows"
    OTHER_MATRIX = "other_matrix"
    """Rows of the donor's other matrix (its head beside its input embedding), where it has two."""
    TEXT = "text"
    BASE_MATRICES = "base_matrices"
    """All of the base's own matrices, whichever of them the problem is about."""


Segment: TypeAlias = Callable[[Sequence[bytes]], list[list[int]]]
"""Cuts byte strings into tokens and returns the row of each token."""


@dataclass(frozen=True, eq=False)
class Texts:
    """The bytes of a problem's tokens, for approximations that read text.

    `None` stands for a control token or an id without a token: these are never cut into pieces.
    """

    missing: Sequence[bytes | None]
    """The bytes of each missing token."""
    base: Sequence[bytes | None]
    """The bytes of each row of the base's matrix."""
    donor: Sequence[bytes | None]
    """The bytes of each row of the donor's matrix."""
    segment_in_base: Segment
    """Cuts byte strings with the base's tokenizer; returns the base's rows of the pieces."""
    segment_in_donor: Segment
    """Cuts byte strings with the donor's tokenizer; returns the donor's rows of the pieces."""
    emitted: Bool[np.ndarray, "base_rows"] | None = None
    """Which of the base's tokens its tokenizer emits; None: those that it cuts into themselves."""
    shared: Shared = field(default_factory=Shared, init=False)
    """What methods found out, for further tensors whose tokens these are. Texts that are made of
    these by `dataclasses.replace` are others, and begin with nothing."""
    of_blocks: Once | None = None
    """What they found out for all blocks, where the missing tokens are a block of more."""

    def blocks(self, parts: Sequence[slice]) -> list[Texts]:
        """The same for some of the missing tokens each."""
        once = Once()
        return [replace(self, missing=self.missing[part], of_blocks=once) for part in parts]

    def once(self, given: Hashable, make: Callable[[], T]) -> T:
        """`make()`, which depends on `given` but not on the missing tokens: once for all blocks."""
        return make() if self.of_blocks is None else self.of_blocks.of(given, make)


@dataclass(frozen=True, eq=False)
class CodingInputs:
    """The donor's side of a problem, which every base model of one vocabulary shares.

    `anchor_rows[i]` and `anchors[i]` are rows of one token, in the base and in the donor. Tensors
    that the approximation does not need (see `Approximation.needs`) are None.
    """

    missing: int
    """How many tokens have no row."""
    anchor_rows: Int[Tensor, "anchors"]
    """The base's row of each anchor."""
    targets: Float[Tensor, "missing donor_dim"] | None = None
    """The donor's rows of the missing tokens."""
    anchors: Float[Tensor, "anchors donor_dim"] | None = None
    """The donor's rows of the anchors."""
    donor: Float[Tensor, "donor_rows donor_dim"] | None = None
    """The donor's whole matrix."""
    other_targets: Float[Tensor, "missing other_dim"] | None = None
    """Rows of the missing tokens in the donor's other matrix: its head where `targets` are from its
    input embedding. Rows past the end of that matrix are NaN."""
    other_anchors: Float[Tensor, "anchors other_dim"] | None = None
    """Rows of the anchors in the donor's other matrix."""
    target_ids: Int[Tensor, "missing"] | None = None
    """The donor's row of each missing token."""
    anchor_ids: Int[Tensor, "anchors"] | None = None
    """The donor's row of each anchor."""
    other_matrix: Float[Tensor, "other_rows other_dim"] | None = None
    """The donor's other matrix as a whole."""
    texts: Texts | None = None
    progress: bool = False
    """Whether to show a progress bar."""
    planned_for: int | None = None
    """For how many missing tokens a method is to plan its work, where these are a block of them."""
    in_force: dict[str, Any] = field(default_factory=dict)
    """Written by the method: values of parameters that it chose or reduced while it ran."""
    row_fit: dict[str, Float[Tensor, "missing"]] = field(default_factory=dict)
    """Written by the method that has one: its `Approximation.fit` of each missing token, by the
    figure's key; NaN for tokens of which it says nothing."""


@dataclass(frozen=True, eq=False)
class MissingRows:
    """One vocabulary tensor of one base model, whose missing rows are to be approximated."""

    part: Part
    base: Float[Tensor, "base_rows base_dim"]
    """The base's matrix, with the rows of its own vocabulary."""
    inputs: CodingInputs
    matrices: Mapping[Part, Tensor] = field(default_factory=dict)
    """The base's input embedding, and its head where that is a matrix of its own, where the
    approximation needs them."""
    tied: bool = False
    """Whether this one matrix is the input embedding and the head."""


@dataclass(frozen=True)
class Sizes:
    """The size of a problem, known from headers and tokenizers before any row is read."""

    missing: int
    anchors: int
    base_rows: int
    base_dim: int
    donor_dim: int
    """Length of the donor's rows; of the base's where the method reads none of the donor's."""
    other_dim: int = 0
    """Length of the rows of the donor's other matrix; 0 where the method does not read it."""
    dtype: torch.dtype = torch.float32
    """The dtype in which the donor's rows are stored."""
    device: str = "cpu"


@dataclass(frozen=True)
class Cost:
    """What a method takes for a problem of some size, apart from reading and writing rows."""

    multiply_adds: float = 0.0
    """Of the dominant matrix products, in units of a multiply-add of a large float32 product: one
    that runs at half that speed counts twice. 0 where no product takes long."""
    bytes: int = 0
    """Working memory in bytes, where it is more than a few hundred megabytes."""
    search: str | None = None
    """The search that it will use, where it has a choice of several."""
    shared: float = 0.0
    """Of `multiply_adds` those that are done for the first of several tensors with these tokens and
    this donor alone."""


def texts_of(method: str, inputs: CodingInputs) -> Texts:
    """The texts of a problem's tokens. ValueError, naming the method, where there are none."""
    if inputs.texts is None:
        raise ValueError(f"{method} needs the tokens' texts: give the inputs their `texts`")
    return inputs.texts


def all_similarities(sizes: Sizes) -> Cost:
    """The cost of comparing every missing token with every anchor."""
    return Cost(float(sizes.missing) * sizes.anchors * sizes.donor_dim)


class Approximation(BaseModel, ABC, frozen=True, extra="forbid"):
    """A training-free way to find missing rows. Fields are its parameters."""

    name: ClassVar[str]
    """Its name in `merge_method:`."""
    reference: ClassVar[str | None] = None
    """Where it was published."""
    instead_of_donor_rows: ClassVar[str | None] = None
    """For a method that by default needs the donor's rows: the parameter with which it does not, as
    a user writes it; None where there is none."""

    fit: ClassVar[Fit | None] = None
    """Its figure of how well a row is known; None for a method that treats all tokens alike."""
    parts: ClassVar[Parts | None] = None
    """What its rows are made of, as `made_of` tells it; None where it tells nothing."""

    rescale_norms: bool = Field(
        default=False,
        description="Give the approximated rows the norm distribution of the base's rows "
        "(quantile by quantile; directions stay, a head's biases are left alone).",
    )

    @property
    def needs(self) -> frozenset[Needs]:
        """What it reads besides the base's own matrix, with these parameters."""
        return frozenset()

    @property
    def reads_in_place(self) -> bool:
        """Whether it takes the donor's matrices and where its rows are in them (`target_ids`,
        `anchor_ids`, `other_matrix`), instead of copies of the rows."""
        return False

    @property
    def copies_shared(self) -> bool:
        """Whether shared tokens keep their rows; if not, they too are approximated."""
        return True

    @property
    def in_blocks(self) -> bool:
        """Whether it can work block by block (of a multiple of `pursuit.cuts.BLOCK` tokens), with
        rows or codes that are equal to the last bit: then a merge on several devices does so."""
        return False

    @property
    def repeats_in_blocks(self) -> bool:
        """Whether much of the work is the same for all blocks, and done for each of them."""
        return False

    def space_part(self, part: Part) -> Part:
        """Which of the donor's matrices (INPUT or HEAD) gives the targets and anchors of `part`.

        Parts for which it is the same matrix share one code.
        """
        return Part.INPUT if part == Part.INPUT else Part.HEAD

    def sequence_weights(self, count: int, part: Part) -> list[float]:
        """What each of `count` of the base's tokens counts in the row of one that stands for all of
        them, one after the other. They sum to 1."""
        return [1 / count] * count

    def cost(self, sizes: Sizes) -> Cost:
        """What such a problem takes. Raises ValueError where the method would refuse it."""
        return Cost()

    def clamped(self, sizes: Sizes) -> Approximation:
        """The method with its parameters as they will be in force for a problem of these sizes.

        A number that was left open is filled in, and one that is larger than the problem allows
        is reduced. What only the data can decide (a search, a penalty) stays as it is; the method
        writes it to `CodingInputs.in_force` when it runs.
        """
        return self

    def parameters_in_force(self, inputs: CodingInputs) -> dict[str, Any]:
        """The parameters that were in force when the method ran on `inputs`, as values for JSON."""
        return {**self.model_dump(mode="json"), **inputs.in_force}

    def made_of(self, problem: MissingRows) -> Code | None:
        """The base's rows of which each missing row is made, and their weights; None where `parts`
        is. The same for a few of the missing tokens as for all of them."""
        return None

    def rows(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        """The missing rows, computed in float32 (float64 where the base's matrix is)."""
        return self.finished(self.approximate(problem), problem.base, problem.part)

    @abstractmethod
    def approximate(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        """The missing rows before what every method shares (`rescale_norms`) is applied."""

    def finished(
        self,
        rows: Float[Tensor, "missing base_dim"],
        base: Float[Tensor, "base_rows base_dim"],
        part: Part,
    ) -> Float[Tensor, "missing base_dim"]:
        """All of the missing rows, after that."""
        if self.rescale_norms and part != Part.HEAD_BIAS:
            return match_norms(rows, base)
        return rows


class AnchorCoding(Approximation, ABC, frozen=True, extra="forbid"):
    """An approximation that weighs anchors, and finds the weights in the donor's space alone.

    The weights are found once (`encode`), and applied to the rows of every base model that has
    the same vocabulary (`decode`). `rows` does both.
    """

    parts: ClassVar[Parts | None] = ANCHORS

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

    def made_of(self, problem: MissingRows) -> Code:
        return self.encode(problem.inputs)

    @abstractmethod
    def encode(self, inputs: CodingInputs) -> Code:
        """Weights for each missing token, over rows of the *base's* matrix."""

    def decode(
        self,
        code: Code,
        base: Float[Tensor, "base_rows base_dim"],
        anchor_rows: Int[Tensor, "anchors"],
        part: Part,
        tied: bool = False,
    ) -> Float[Tensor, "missing base_dim"]:
        """The missing rows of one base model, from weights that `encode` found.

        `base` is the base's matrix, `part` says which, and `tied` whether it is the head as well;
        `anchor_rows` are those of the inputs that were encoded. float32, or float64 where `base`
        is.
        """
        return self.finished(self._combine(code, base, anchor_rows, part, tied), base, part)

    def approximate(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        code, rows = self.encode(problem.inputs), problem.inputs.anchor_rows
        return self._combine(code, problem.base, rows, problem.part, problem.tied)

    def _combine(
        self,
        code: Code,
        base: Float[Tensor, "base_rows base_dim"],
        anchor_rows: Int[Tensor, "anchors"],
        part: Part,
        tied: bool,
    ) -> Float[Tensor, "missing base_dim"]:
        rows = code.decode(base)
        uncoded = (code.support_sizes() == 0).to(rows.device)
        if uncoded.any():
            rows[uncoded] = self._fallback(int(uncoded.sum()), base, part)
        return rows

    def _fallback(
        self, count: int, base: Float[Tensor, "base_rows base_dim"], part: Part
    ) -> Float[Tensor, "count base_dim"]:
        """Rows for tokens that could not be coded, since their donor row is zero or not finite."""
        return mean_row(base).expand(count, -1)
