"""What coding in anchors returns: weights that turn one model's rows into another's missing rows.

`SparseCode` (of the pursuit) pads every token to the same number of slots. Two more shapes are
needed: as many weights as each token asks for (`RaggedCode`), and weights over all anchors that
are too many to write down, kept as the product of two matrices (`FactoredCode`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Int32, Int64
from torch import Tensor
from torch.nn import functional

from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.pursuit import SparseCode


@runtime_checkable
class Code(Protocol):
    """Weights over rows of a matrix, for each target. A dataclass of tensors."""

    @property
    def residual_norms(self) -> Tensor:
        """(targets,) Euclidean norms of what the weights leave of each target in its space."""

    def decode(self, rows: Tensor) -> Tensor:
        """(targets, dim): the weighted sums of `rows`; float32, or float64 where `rows` is."""


def support_sizes(code: Code) -> Int64[Tensor, "targets"]:
    """How many rows each target is a combination of; 0 where the target could not be coded."""
    if isinstance(code, SparseCode):
        return (code.coefficients != 0).sum(1)
    if isinstance(code, RaggedCode):
        return code.offsets.diff()
    if isinstance(code, FactoredCode):
        return torch.where(code.scales != 0, len(code.indices), 0)
    raise TypeError(f"{type(code).__name__} is not a code that an approximation returns")


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where any of the tensors is, else float32."""
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if double else torch.float32


@dataclass(frozen=True, eq=False)
class RaggedCode:
    """Each target as a combination of as many rows as it needs (compressed sparse rows).

    The weights of target `i` are `coefficients[offsets[i]:offsets[i + 1]]`. Eight bytes a
    weight: float32 and int32.
    """

    offsets: Int64[Tensor, "boundaries"]
    indices: Int32[Tensor, "weights"]
    coefficients: Float[Tensor, "weights"]
    residual_norms: Float[Tensor, "targets"]

    @classmethod
    def join(cls, codes: Sequence[RaggedCode]) -> RaggedCode:
        """The codes of all targets, one after the other."""
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
        """The same combinations of other rows; float32, or float64 where `rows` is."""
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


@dataclass(frozen=True, eq=False)
class FactoredCode:
    """Weights `scales[i] * left[i] @ right[j] * right_scales[j]` of target i and row indices[j].

    The weights are never written down: decoding costs the product of two thin matrices.
    A target whose scale is 0 could not be coded.
    """

    left: Float[Tensor, "targets inner"]
    right: Float[Tensor, "atoms inner"]
    scales: Float[Tensor, "targets"]
    right_scales: Float[Tensor, "atoms"]
    indices: Int[Tensor, "atoms"]
    residual_norms: Float[Tensor, "targets"]

    def decode(self, rows: Float[Tensor, "all_atoms dim"]) -> Float[Tensor, "targets dim"]:
        """The same combinations of other rows; float32, or float64 where `rows` is."""
        core = self.core(rows)
        result = core.new_empty((len(self.scales), rows.shape[1]))
        for block in chunks(len(result), 4 * core.itemsize * max(core.shape)):
            result[block] = self.combine(block, core)
        return result

    def core(self, rows: Float[Tensor, "all_atoms dim"]) -> Float[Tensor, "inner dim"]:
        """What decoding needs to know of `rows`."""
        dtype, device = working_dtype(rows), rows.device
        core = rows.new_zeros((self.right.shape[1], rows.shape[1]), dtype=dtype)
        indices = self.indices.to(device)
        for block in chunks(len(indices), 4 * dtype.itemsize * max(core.shape)):
            weighted = rows[indices[block]].to(dtype)
            weighted *= self.right_scales[block].to(device, dtype)[:, None]
            core.addmm_(self.right[block].to(device, dtype).T, weighted)
        return core

    def combine(self, block: slice, core: Float[Tensor, "inner dim"]) -> Float[Tensor, "some dim"]:
        """Decodes the targets of `block`, given `core`."""
        left = self.left[block].to(core.device, core.dtype)
        return (left @ core) * self.scales[block].to(core.device, core.dtype)[:, None]


def to_tensors(code: Code) -> dict[str, Tensor]:
    """The tensors of a code by name, to be moved between devices or stored."""
    kind: Any = _kind(vars(code))
    return {field.name: getattr(code, field.name) for field in fields(kind)}


def from_tensors(tensors: dict[str, Tensor]) -> Code:
    """The code that `to_tensors` took apart. Other keys beside its own are ignored."""
    kind: Any = _kind(tensors)
    return kind(**{field.name: tensors[field.name] for field in fields(kind)})


def _kind(names: Iterable[str]) -> type:
    given = set(names)
    for kind in (RaggedCode, FactoredCode, SparseCode):
        if {field.name for field in fields(kind)} <= given:
            return kind
    raise ValueError(f"no code has the tensors {', '.join(sorted(given))}")
