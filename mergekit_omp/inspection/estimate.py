"""What approximating the missing rows will take: which search, about how long, how much memory.

The pursuit's own choice (`pursuit.choice`) is asked with stand-ins of the right sizes; counts of
multiply-adds become seconds by one product that is timed here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from mergekit.common import ModelReference
from torch import Tensor

from mergekit_omp.approximation.base import Approximation
from mergekit_omp.approximation.omp import Omp
from mergekit_omp.models.headers import header
from mergekit_omp.pursuit.choice import choose
from mergekit_omp.pursuit.problem import PRECISION, Problem
from mergekit_omp.transplant.planning import AlignedTensor, TransplantPlan
from mergekit_omp.transplant.row_plan import ApproximatedRows, RowPlan

BY_SIMILARITY = ("wechsel", "focus", "clp", "knn")
TIMED_SECONDS = 0.05


@dataclass(frozen=True)
class Step:
    """The approximation of one tensor's missing rows from one donor, for models that share it."""

    tensor: str
    part: str
    models: tuple[str, ...]
    donor: str | None
    donor_tensor: str | None
    """None where the method reads no donor rows."""
    method: str
    k: int | None
    """For `omp`: how many anchors a token may use."""
    sparsity: int | None
    """The same, as far as there are anchors and dimensions."""
    missing: int
    anchors: int
    dimension: int
    """Numbers in a row of the donor's tensor; of the base's where none is read."""
    search: str | None
    """For `omp`: the pursuit's search, with the type that its Gram matrix has."""
    multiply_adds: float
    """Weighted by how fast they go against a large float32 product."""
    bytes: int
    """The tensors of this step, as they are read and written, their copies, and the search's."""
    refusal: str | None = None
    """What the merge will say instead of running, for want of memory or of a search."""


def steps(transplant: TransplantPlan) -> list[Step]:
    """All approximations of a planned merge, each code counted once."""
    found: list[Step] = []
    seen: set[int] = set()
    for aligned in transplant.aligned:
        for plan in aligned.task.plans:
            for filling in plan.fillings:
                key = id(filling) if filling.encode is None else id(filling.encode)
                if key in seen:
                    continue
                seen.add(key)
                found.append(_step(transplant, aligned, plan, filling))
    return found


def _step(
    transplant: TransplantPlan, aligned: AlignedTensor, plan: RowPlan, filling: ApproximatedRows
) -> Step:
    entry = aligned.entry(plan.model)
    sharing = [p for p in aligned.task.plans if any(_same(f, filling) for f in p.fillings)]
    base = _base_header(aligned, plan.model)
    donor = None if filling.donor is None else header(filling.donor)
    missing, anchors = len(filling.rows), len(filling.plan.anchors)
    dimension = _width(base if donor is None else donor)
    size = sum(_size(_base_header(aligned, p.model)) for p in sharing)
    size += len(sharing) * plan.rows * _width(base) * base.element_size()
    if donor is not None:
        size += _size(donor) + 4 * dimension * (missing + anchors)
    search, cost, refusal, k, sparsity = None, 0.0, None, None, None
    approximation = filling.approximation
    if isinstance(approximation, Omp) and donor is not None:
        k = approximation.sparsity(dimension, anchors)
        sparsity = min(k, anchors, dimension)
        double = donor.dtype == torch.float64
        problem = _stand_in(missing, anchors, dimension, sparsity, double, transplant)
        try:
            chosen = choose(problem, approximation.search, approximation.memory)
        except ValueError as error:
            refusal = str(error)
        else:
            gram = "" if chosen.gram is None else str(chosen.gram).removeprefix("torch.")
            search = f"{chosen.search} ({gram})" if gram else chosen.search
            cost = chosen.cost * (2 if double else 1)
            size += chosen.bytes
    else:
        cost = _cost(approximation, missing, anchors, dimension, base)
    return Step(
        tensor=entry["tensor"],
        part=filling.part.value,
        models=tuple(str(p.model) for p in sharing),
        donor=None if filling.donor is None else str(filling.donor.model),
        donor_tensor=None if filling.donor is None else filling.donor.tensor,
        method=approximation.name,
        k=k,
        sparsity=sparsity,
        missing=missing,
        anchors=anchors,
        dimension=dimension,
        search=search,
        multiply_adds=cost,
        bytes=size,
        refusal=refusal,
    )


def _same(one: ApproximatedRows, other: ApproximatedRows) -> bool:
    return one is other or (one.encode is not None and one.encode is other.encode)


def _base_header(aligned: AlignedTensor, model: ModelReference) -> Tensor:
    (found,) = (
        header(task)
        for task in aligned.task.gather_tensors.arguments().values()
        if task.model == model
    )
    assert found is not None
    return found


def _width(tensor: Tensor) -> int:
    return tensor.shape[-1] if tensor.ndim > 1 else 1


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _stand_in(
    missing: int, anchors: int, dim: int, sparsity: int, double: bool, transplant: TransplantPlan
) -> Problem:
    dtype = torch.float64 if double else torch.float32
    device = present(transplant.options.device)
    zero = torch.zeros((1, 1), dtype=dtype, device=device)
    return Problem(
        targets=zero.expand(missing, dim),
        atoms=zero.expand(anchors, dim),
        target_norms=zero[0].expand(missing),
        atom_norms=zero[0].expand(anchors),
        usable=torch.ones(1, dtype=torch.bool, device=device).expand(anchors),
        sparsity=sparsity,
        tolerance=PRECISION[dtype].residual,
    )


def _cost(
    approximation: Approximation, missing: int, anchors: int, dimension: int, base: Tensor
) -> float:
    """Multiply-adds of the products that dominate the other methods; 0 where there are none."""
    if approximation.name in BY_SIMILARITY:
        return float(missing) * anchors * dimension
    if approximation.name == "linear":
        # In float64: twice the time.
        return 2.0 * (anchors * (dimension + _width(base)) + missing * _width(base)) * dimension
    if approximation.name == "kriging":
        # With a donor that is not tied; three penalties are tried as a rule, in float64.
        features = 2.0 * dimension + _width(base)
        normal = anchors * features * (features + _width(base))
        solved = 6 * (features**3 + features**2 * _width(base))
        return normal + solved + 2 * missing * anchors * dimension
    if approximation.name == "kriging":
        # Features: both of the donor's rows and the pieces' mean; similarities to all anchors.
        features = 2 * dimension + _width(base)
        return features * (float(anchors) * features + float(missing) * (anchors + _width(base)))
    if approximation.name == "normal":
        return float(base.numel()) * _width(base)
    return 0.0


def present(device: str | None) -> str:
    """The device of a merge, or the CPU where this machine lacks it."""
    wanted = torch.device(device or "cpu").type
    return wanted if wanted == "cuda" and torch.cuda.is_available() else "cpu"


def seconds_per_multiply_add(device: str) -> float:
    """Measured with float32 products for about a twentieth of a second."""
    size = 1024
    one = torch.ones((size, size), device=device)
    one @ one
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < TIMED_SECONDS:
        # Reading a value waits for the device.
        (one @ one)[0, 0].item()
        count += 1
    return (time.perf_counter() - started) / (count * size**3)
