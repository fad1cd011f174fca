"""One pursuit, ready to be solved: checked, in the working dtype, with bad atoms put aside."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LOG = logging.getLogger(__package__)


@dataclass(frozen=True)
class Precision:
    """What counts as nothing in one working dtype, relative to the norms involved."""

    residual: float
    """A target whose relative residual is at most this is represented: the default tolerance."""
    correlation: float
    """A cosine between residual and atom, measured against the target's norm, that is noise."""
    dependence: float
    """An atom whose sine to the span of the support is at most this is linearly dependent."""


PRECISION = {
    torch.float32: Precision(residual=1e-5, correlation=2e-6, dependence=2e-4),
    torch.float64: Precision(residual=1e-12, correlation=4e-14, dependence=1e-9),
}


@dataclass(frozen=True, eq=False)
class Problem:
    """Targets and a dictionary of atoms, in float32 or float64, on one device.

    Rows of `atoms` that are not `usable` (zero or non-finite) are zero here, so that no search
    can find them; their indices stay valid.
    """

    targets: Float[Tensor, "targets dim"]
    atoms: Float[Tensor, "atoms dim"]
    target_norms: Float[Tensor, "targets"]
    atom_norms: Float[Tensor, "atoms"]
    usable: Bool[Tensor, "atoms"]
    sparsity: int
    tolerance: float

    @property
    def precision(self) -> Precision:
        return PRECISION[self.atoms.dtype]

    @property
    def divisors(self) -> Float[Tensor, "atoms"]:
        """The norms of atoms, but for those of atoms that are zero."""
        return self.atom_norms.clamp(min=torch.finfo(self.atoms.dtype).tiny)

    def subset(self, rows: Tensor) -> Problem:
        """The same dictionary with some of the targets."""
        return replace(self, targets=self.targets[rows], target_norms=self.target_norms[rows])

    def sample(self) -> Problem:
        """One iteration of one target."""
        return replace(self.subset(torch.arange(1)), sparsity=min(1, self.sparsity))


def clamped(k: int, atoms: int, dimension: int) -> int:
    """`k` as far as it can be used: of more atoms than dimensions, some depend on the others."""
    return min(k, atoms, dimension)


def prepare(
    targets: Float[Tensor, "targets dim"],
    atoms: Float[Tensor, "atoms dim"],
    k: int,
    tolerance: float | None,
) -> Problem:
    """Checks the arguments of a pursuit; see `orthogonal_matching_pursuit` for its errors."""
    _check(targets, atoms, k, tolerance)
    double = torch.float64 in (targets.dtype, atoms.dtype)
    dtype = torch.float64 if double else torch.float32
    targets = targets.detach().to(dtype).contiguous()
    finite = torch.isfinite(targets).all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise ValueError(
            f"target {row} has values that are not finite ({int((~finite).sum())} of"
            f" {len(targets)} targets have): remove or repair these rows before the pursuit"
        )
    atoms = atoms.detach().to(dtype).contiguous()
    norms = torch.linalg.vector_norm(atoms, dim=1)
    usable = torch.isfinite(norms) & (norms > torch.finfo(dtype).tiny)
    if not bool(usable.all()):
        atoms = torch.where(usable[:, None], atoms, 0)
        norms = torch.where(usable, norms, 0)
    sparsity = clamped(k, *atoms.shape)
    if sparsity < k:
        LOG.warning(
            "k reduced from %d to %d: a target cannot use more atoms than there are (%d)"
            " or than the dimension (%d)",
            k,
            sparsity,
            *atoms.shape,
        )
    return Problem(
        targets=targets,
        atoms=atoms,
        target_norms=torch.linalg.vector_norm(targets, dim=1),
        atom_norms=norms,
        usable=usable,
        sparsity=sparsity,
        tolerance=PRECISION[dtype].residual if tolerance is None else tolerance,
    )


def _check(targets: Tensor, atoms: Tensor, k: int, tolerance: float | None) -> None:
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k is {k!r}, a {type(k).__name__}: write an integer of at least 1")
    if k < 1:
        raise ValueError(f"k is {k}: write an integer of at least 1")
    for name, tensor in (("targets", targets), ("atoms", atoms)):
        if tensor.ndim != 2:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: two axes are needed")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} holds {tensor.dtype}: a floating-point dtype is needed")
    if targets.shape[1] != atoms.shape[1]:
        raise ValueError(
            f"targets have {targets.shape[1]} dimensions and atoms {atoms.shape[1]}:"
            " both must come from one space"
        )
    if targets.device != atoms.device:
        raise ValueError(
            f"targets are on {targets.device} and atoms on {atoms.device}: move one of them"
        )
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}: a relative residual in [0, 1) is needed")
