"""Codes beside the pursuit's `SparseCode`, which pads every token to the same number of slots.

`RaggedCode` has as many weights as each token asks for. `FactoredCode` has weights over all
anchors, which are too many to write down, as the product of two matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Int32, Int64
from torch import Tensor
from torch.nn import functional

from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.pursuit import Code


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where any of the tensors is, else float32."""
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if double else torch.float32


@dataclass(frozen=True, eq=False)
class RaggedCode(Code):
    """Each target as a combination of as many rows as it needs (compressed sparse rows).

    The weights of target `i` are `coefficients[offsets[i]:offsets[i + 1]]`. Eight bytes a
    weight: float32 and int32.
    """

    kind: ClassVar[str] = "ragged"

    offsets: Int64[Tensor, "boundaries"]
    indices: Int32[Tensor, "weights"]
    coefficients: Float[Tensor, "weights"]
    residual_norms: Float[Tensor, "targets"]

    @classmethod
    def join(cls, codes: Sequence[RaggedCode]) -> RaggedCode:
        """One code of all targets, from codes of consecutive ones."""
        if not codes:
            empty = torch.zeros(0)
            return cls(torch.zeros(1, dtype=torch.int64), empty.to(torch.int32), empty, empty)
        offsets = [codes[0].offsets[:1]]
        for code in codes:
            offsets.append(code.offsets[1:] + offsets[-1][-1])
        return cls(
            offsets=torch.cat(offsets),
            indices=torch.cat([code.indices for code in codes]),
            coefficients=torch.cat([code.coefficients for code in codes]),
            residual_norms=torch.cat([code.residual_norms for code in codes]),
        )

    def decode(self, rows: Float[Tensor, "atoms dim"]) -> Float[Tensor, "targets dim"]:
        """The weighted sums of `rows`; float32, or float64 where `rows` is."""
        rows = rows.to(working_dtype(rows))
        targets = len(self.offsets) - 1
        result = rows.new_zeros((targets, rows.shape[1]))
        # A block's weights are widened to int64 and copied to the device of the rows.
        mean_size = len(self.indices) // max(1, targets) + 1
        for block in chunks(targets, 24 * mean_size):
            bounds = self.offsets[block.start : block.stop + 1]
            first, last = int(bounds[0]), int(bounds[-1])
            if first == last:
                continue
            result[block] = functional.embedding_bag(
                self.indices[first:last].to(rows.device, torch.int64),
                rows,
                (bounds[:-1] - first).to(rows.device),
                mode="sum",
                per_sample_weights=self.coefficients[first:last].to(rows.device, rows.dtype),
            )
        return result

    def support_sizes(self) -> Int64[Tensor, "targets"]:
        """How many rows each target is a combination of; 0 where it could not be coded."""
        return self.offsets.diff()

    def weights(self, i: int) -> tuple[Int32[Tensor, "support"], Float[Tensor, "support"]]:
        """The rows that target `i` is a combination of, and their weights."""
        part = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        return self.indices[part], self.coefficients[part]


@dataclass(frozen=True, eq=False)
class FactoredCode(Code):
    """Weights `scales[i] * left[i] @ right[j] * right_scales[j]` of target i and row indices[j].

    The weights are never written down: decoding costs the product of two thin matrices.
    A target whose scale is 0 could not be coded.
    """

    kind: ClassVar[str] = "factored"

    left: Float[Tensor, "targets inner"]
    right: Float[Tensor, "atoms inner"]
    scales: Float[Tensor, "targets"]
    right_scales: Float[Tensor, "atoms"]
    indices: Int[Tensor, "atoms"]
    residual_norms: Float[Tensor, "targets"]

    def decode(self, rows: Float[Tensor, "all_atoms dim"]) -> Float[Tensor, "targets dim"]:
        """The weighted sums of `rows`; float32, or float64 where `rows` is."""
        core = self.core(rows)
        result = core.new_empty((len(self.scales), rows.shape[1]))
        for block in chunks(len(result), 4 * core.itemsize * max(core.shape)):
            result[block] = self.decode_some(block, core)
        return result

    def core(self, rows: Float[Tensor, "all_atoms dim"]) -> Float[Tensor, "inner dim"]:
        """The product of `right` and `rows`, which every target's decoding needs."""
        dtype, device = working_dtype(rows), rows.device
        core = rows.new_zeros((self.right.shape[1], rows.shape[1]), dtype=dtype)
        indices = self.indices.to(device)
        for block in chunks(len(indices), 4 * dtype.itemsize * max(core.shape)):
            weighted = rows[indices[block]].to(dtype)
            weighted *= self.right_scales[block].to(device, dtype)[:, None]
            core.addmm_(self.right[block].to(device, dtype).T, weighted)
        return core

    def decode_some(
        self, block: slice, core: Float[Tensor, "inner dim"]
    ) -> Float[Tensor, "some dim"]:
        """The decoded rows of the targets of `block`, given `core(rows)`."""
        left = self.left[block].to(core.device, core.dtype)
        return (left @ core) * self.scales[block].to(core.device, core.dtype)[:, None]

    def support_sizes(self) -> Int64[Tensor, "targets"]:
        """How many rows each target is a combination of; 0 where it could not be coded."""
        return torch.where(self.scales != 0, len(self.indices), 0)

    def weights(self, i: int) -> tuple[Int[Tensor, "support"], Float[Tensor, "support"]]:
        """The rows that target `i` is a combination of, and their weights."""
        return self.indices, (self.right @ self.left[i]) * self.scales[i] * self.right_scales
