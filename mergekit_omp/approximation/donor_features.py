"""What the donor's matrices say of missing tokens and anchors, as features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mergekit_omp.approximation.anchors import donor_rows, require_anchors, usable_rows
from mergekit_omp.approximation.base import CodingInputs
from mergekit_omp.approximation.features import FeatureBlock, FeatureRows
from mergekit_omp.approximation.moments import finite_rows
from mergekit_omp.approximation.shared import checksum


@dataclass(frozen=True, eq=False)
class DonorFeatures:
    """Features of tokens in a donor. Its rows are read where they are, if the inputs say where."""

    own: FeatureBlock
    """From the donor's matrix."""
    blocks: list[FeatureBlock]
    """That, and one from its other matrix where it has two, in the order of `checksums`."""
    checksums: Int64[Tensor, "blocks 3"]
    """Of the matrices: they come in one order, whichever of them a problem is about."""
    anchor_rows: Int64[Tensor, "usable_anchors"]
    """The base's row of each anchor that is usable."""
    blank: Bool[Tensor, "missing"]
    """Missing tokens whose row in the donor is zero or not finite."""

    @classmethod
    def of(cls, method: str, inputs: CodingInputs, device: torch.device) -> DonorFeatures:
        """Raises ValueError, naming the method, if the donor has no rows or no anchor is usable."""
        if inputs.donor is None or inputs.target_ids is None or inputs.anchor_ids is None:
            return _of_copies(method, inputs, device)
        donor, targets, ids = (
            tensor.to(device) for tensor in (inputs.donor, inputs.target_ids, inputs.anchor_ids)
        )
        usable = usable_rows(donor)
        chosen = usable[ids]
        require_anchors(method, int(chosen.sum()))
        anchors = ids[chosen]
        blocks = [_block(donor, anchors, targets, inputs.progress)]
        if inputs.other_matrix is not None:
            other = inputs.other_matrix.to(device)
            blocks.append(_block(other, anchors, targets, inputs.progress))
        rows = inputs.anchor_rows.to(device, torch.int64)[chosen]
        return cls.in_order(blocks, rows, ~usable[targets])

    @classmethod
    def in_order(
        cls,
        blocks: list[FeatureBlock],
        anchor_rows: Int64[Tensor, "usable_anchors"],
        blank: Bool[Tensor, "missing"],
    ) -> DonorFeatures:
        """From the block of the donor's matrix and that of its other one."""
        sums = [checksum(block.anchors.matrix) for block in blocks]
        order = sorted(range(len(blocks)), key=lambda i: sums[i].tolist())
        ordered = [blocks[i] for i in order]
        return cls(blocks[0], ordered, torch.stack([sums[i] for i in order]), anchor_rows, blank)

    @property
    def identity(self) -> list[Tensor]:
        """Tensors that are equal for features of the same tokens in the same matrices."""
        found = [self.checksums]
        for block in self.blocks:
            assert isinstance(block.anchors, FeatureRows)
            assert isinstance(block.missing, FeatureRows)
            found += [block.anchors.indices, block.missing.indices]
            if block.missing.matrix is not block.anchors.matrix:
                found.append(checksum(block.missing.matrix))
        return found


def _of_copies(method: str, inputs: CodingInputs, device: torch.device) -> DonorFeatures:
    targets, anchors, rows = (tensor.to(device) for tensor in donor_rows(method, inputs))
    blocks = [FeatureBlock.of(FeatureRows.all_finite(anchors), FeatureRows.all_finite(targets))]
    if inputs.other_anchors is not None and inputs.other_targets is not None:
        assert inputs.anchors is not None
        others = inputs.other_anchors[usable_rows(inputs.anchors)].to(device)
        theirs = inputs.other_targets.to(device)
        blocks.append(
            FeatureBlock.of(FeatureRows.all_finite(others), FeatureRows.all_finite(theirs))
        )
    return DonorFeatures.in_order(blocks, rows, ~(targets != 0).any(1))


def _block(
    matrix: Float[Tensor, "rows dim"],
    anchors: Int64[Tensor, "anchors"],
    missing: Int64[Tensor, "missing"],
    progress: bool,
) -> FeatureBlock:
    """Tokens at rows past the end of the matrix, or not finite, have none."""
    finite = finite_rows(matrix)

    def those(ids: Int64[Tensor, "tokens"]) -> FeatureRows:
        there = (ids < len(matrix)) & finite[ids.clamp_max(len(matrix) - 1)]
        return FeatureRows(matrix, ids.where(there, -1))

    return FeatureBlock.of(those(anchors), those(missing), progress)
