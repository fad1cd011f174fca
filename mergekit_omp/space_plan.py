"""Which rows of a donor's tensors make up the space of a problem."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mergekit_omp.approximation.base import DonorSpace, Needs, Texts


@dataclass(frozen=True, eq=False)
class SpacePlan:
    """Which rows of a donor tensor stand for what, for all models of one vocabulary."""

    targets: np.ndarray
    """Donor row of each missing token."""
    anchors: np.ndarray
    """Donor row of each anchor."""
    anchor_rows: np.ndarray
    """Base row of each anchor."""
    texts: Texts | None
    progress: bool

    def space(
        self, needs: frozenset[Needs], donor: Tensor | None, companion: Tensor | None = None
    ) -> DonorSpace:
        """The donor's side of the problem, with the tensors that `needs` asks for."""
        if Needs.DONOR_ROWS not in needs or donor is None:
            device = torch.device("cpu")
            targets = anchors = donor = None
        else:
            device = donor.device
            targets = donor[torch.from_numpy(self.targets).to(device)]
            anchors = donor[torch.from_numpy(self.anchors).to(device)]
        return DonorSpace(
            missing=len(self.targets),
            anchor_rows=torch.from_numpy(self.anchor_rows).to(device),
            targets=targets,
            anchors=anchors,
            donor=donor,
            companion_targets=_rows_where_there_are(companion, self.targets),
            companion_anchors=_rows_where_there_are(companion, self.anchors),
            texts=self.texts,
            progress=self.progress,
        )


def _rows_where_there_are(matrix: Tensor | None, ids: np.ndarray) -> Tensor | None:
    """Rows of a matrix that may end early; not a number past its end."""
    if matrix is None:
        return None
    wanted = torch.from_numpy(ids).to(matrix.device)
    rows = matrix[wanted.clamp_max(len(matrix) - 1)]
    rows[wanted >= len(matrix)] = torch.nan
    return rows


def vocabulary_first(tensor: Tensor, axis: int) -> Tensor:
    """A view with one row per token: (rows, width), width 1 for a bias."""
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)
