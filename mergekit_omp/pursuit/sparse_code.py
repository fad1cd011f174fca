"""What a pursuit returns: for each target, a few atoms and their coefficients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn import functional


class Code(ABC):
    """For each target, weights over rows of a matrix. Subclasses are dataclasses of tensors.

    `decode` applies the weights to any matrix whose rows stand for the same tokens, so that a
    combination found in one model's space can be repeated in another's.
    """

    kind: ClassVar[str]
    """Tells the subclasses apart in what `to_tensors` returns."""
    residual_norms: Float[Tensor, "targets"]
    """Euclidean norms of what the combination leaves of each target, in the targets' units."""

    _kinds: ClassVar[dict[str, type[Code]]] = {}

    def __init_subclass__(cls) -> None:
        Code._kinds[cls.kind] = cls

    @abstractmethod
    def decode(self, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "targets dim"]:
        """The weighted sums of `rows`; float32, or float64 where `rows` is."""

    @abstractmethod
    def support_sizes(self) -> Int[Tensor, "targets"]:
        """How many rows each target is a combination of; 0 where it could not be coded."""

    @abstractmethod
    def weights(self, i: int) -> tuple[Int[Tensor, "support"], Float[Tensor, "support"]]:
        """The rows that target `i` is a combination of, and their weights."""

    def to_tensors(self) -> dict[str, Any]:
        """The tensors by name, to be moved between devices or stored, and the `kind` of code."""
        held: Any = self
        return {"kind": self.kind, **{f.name: getattr(self, f.name) for f in fields(held)}}

    @classmethod
    def join(cls, codes: Sequence[Any]) -> Code:
        """One code of all targets, from codes of consecutive ones.

        Raises TypeError for a kind of code that cannot be joined.
        """
        raise TypeError(f"codes of kind {cls.kind!r} are not made block by block")

    @staticmethod
    def from_tensors(tensors: dict[str, Any]) -> Code:
        """The code that `to_tensors` took apart; keys that are not its own are ignored."""
        kind: Any = Code._kinds[tensors["kind"]]
        return kind(**{f.name: tensors[f.name] for f in fields(kind)})


@dataclass(frozen=True, eq=False)
class SparseCode(Code):
    """Each target as a sparse combination of atoms.

    Unused slots hold index 0 and coefficient 0. `residual_norms` are Euclidean norms of what
    the combination leaves of the target, in the units of the targets.
    """

    kind: ClassVar[str] = "sparse"

    indices: Int64[Tensor, "targets k"]
    coefficients: Float[Tensor, "targets k"]
    residual_norms: Float[Tensor, "targets"]

    @classmethod
    def empty(cls, targets: Float[Tensor, "targets dim"], k: int) -> SparseCode:
        """A code with no atom for any target."""
        count = len(targets)
        return cls(
            torch.zeros(count, k, dtype=torch.int64, device=targets.device),
            targets.new_zeros(count, k),
            torch.linalg.vector_norm(targets, dim=1),
        )

    @classmethod
    def join(cls, codes: Sequence[SparseCode]) -> SparseCode:
        """One code of all targets, from codes of consecutive ones."""
        return cls(
            indices=torch.cat([code.indices for code in codes]),
            coefficients=torch.cat([code.coefficients for code in codes]),
            residual_norms=torch.cat([code.residual_norms for code in codes]),
        )

    def replaced(self, rows: Int64[Tensor, "some"], code: SparseCode) -> SparseCode:
        """A copy in which the targets `rows` have, in order, the entries of `code`."""
        return SparseCode(
            self.indices.index_copy(0, rows, code.indices),
            self.coefficients.index_copy(0, rows, code.coefficients),
            self.residual_norms.index_copy(0, rows, code.residual_norms),
        )

    def decode(self, rows: Float[Tensor, "atoms dim"]) -> Float[Tensor, "targets dim"]:
        """The weighted sums of `rows`; float32, or float64 where `rows` is."""
        dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        if self.indices.shape[1] == 0:
            return rows.new_zeros((self.indices.shape[0], rows.shape[1]), dtype=dtype)
        return functional.embedding_bag(
            self.indices.to(rows.device),
            rows.to(dtype),
            mode="sum",
            per_sample_weights=self.coefficients.to(rows.device, dtype),
        )

    def support_sizes(self) -> Int64[Tensor, "targets"]:
        """How many rows each target is a combination of; 0 where it could not be coded."""
        return (self.coefficients != 0).sum(1)

    def weights(self, i: int) -> tuple[Int64[Tensor, "support"], Float[Tensor, "support"]]:
        """The rows that target `i` is a combination of, and their weights."""
        used = self.coefficients[i] != 0
        return self.indices[i][used], self.coefficients[i][used]
