"""What a pursuit returns: for each target, a few atoms and their coefficients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class SparseCode:
    """Each target as a sparse combination of atoms.

    Unused slots hold index 0 and coefficient 0. `residual_norms` are Euclidean norms of what
    the combination leaves of the target, in the units of the targets.
    """

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

    def replaced(self, rows: Int64[Tensor, "some"], code: SparseCode) -> SparseCode:
        """The same code with some targets' rows taken, in order, from another."""
        return SparseCode(
            self.indices.index_copy(0, rows, code.indices),
            self.coefficients.index_copy(0, rows, code.coefficients),
            self.residual_norms.index_copy(0, rows, code.residual_norms),
        )

    def decode(self, rows: Float[Tensor, "atoms dim"]) -> Float[Tensor, "targets dim"]:
        """The same combinations of other rows; float32, or float64 where `rows` is."""
        dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        if self.indices.shape[1] == 0:
            return rows.new_zeros((self.indices.shape[0], rows.shape[1]), dtype=dtype)
        return functional.embedding_bag(
            self.indices.to(rows.device),
            rows.to(dtype),
            mode="sum",
            per_sample_weights=self.coefficients.to(rows.device, dtype),
        )
