"""What it will take to approximate the missing rows: time, memory, and which search is used.

Each method says what it costs (`Approximation.cost`); multiply-adds become seconds by one product
that is timed here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from mergekit.common import ModelReference
from mergekit.io.tasks import LoadTensor
from torch import Tensor

from mergekit_omp.approximation import Cost, Sizes
from mergekit_omp.models.headers import header
from mergekit_omp.transplant.planning import TensorRows, TransplantPlan
from mergekit_omp.transplant.predictions import PredictMissing
from mergekit_omp.transplant.row_plan import ApproximatedRows
from mergekit_omp.transplant.row_planning import ModelRows

TIMED_SECONDS = 0.05
PROCESS, TOKEN = 500_000_000, 1500
"""Bytes that Python with its libraries takes, and a token of a model's tokenizer: 1.1 GB with three
of about 145,000 tokens (`python benchmarks/peak_memory.py --method zero --hidden 32`)."""


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
    """The method's `k` as the config has it; None where it has none."""
    k_in_force: int | None
    """`k` as it will be in force, with so many anchors and dimensions."""
    missing: int
    anchors: int
    dimension: int
    """Length of the donor's rows; of the base's where no donor's are read."""
    search: str | None
    """The search that the method will use, where it has a choice."""
    multiply_adds: float
    """Weighted by how fast they go against a large float32 product."""
    bytes: int
    """Of the whole process while this step runs, but for the tensors of the model's layers."""
    refusal: str | None = None
    """What the merge will say instead of running, for want of memory or of a search."""


def steps(transplant: TransplantPlan) -> list[Step]:
    """All approximations of a planned merge, each code and what they share counted once."""
    found: list[Step] = []
    seen: set[int] = set()
    searched: set[tuple[object, ...]] = set()
    for tensor in transplant.tensors:
        for rows in tensor.models:
            for served in rows.plan.approximated:
                key = id(served.encode or served.predict or served)
                if key in seen:
                    continue
                seen.add(key)
                donor = frozenset((served.donor, served.other_matrix))
                search = id(served.coding.texts), served.approximation, donor
                found.append(_step(transplant, tensor, rows, served, search in searched))
                searched.add(search)
    return found


def _step(
    transplant: TransplantPlan,
    tensor: TensorRows,
    rows: ModelRows,
    served: ApproximatedRows,
    searched: bool,
) -> Step:
    """`searched`: what tensors share was found for an earlier one."""
    plans = [of_model.plan for of_model in tensor.models]
    sharing = [plan for plan in plans if any(_same(f, served) for f in plan.approximated)]
    base = _base_header(tensor, rows.plan.model)
    donor = None if served.donor is None else header(served.donor)
    missing, anchors = len(served.rows), len(served.coding.anchors)
    dimension = _width(base if donor is None else donor)
    size = sum(_size(_base_header(tensor, plan.model)) for plan in sharing)
    size += len(sharing) * rows.plan.rows * _width(base) * base.element_size()
    size += PROCESS + TOKEN * (len(base) + 2 * rows.plan.rows)
    # What is merged waits in memory until its file is full.
    others = (other for other in transplant.tensors if other is not tensor)
    size += sum(
        rows.plan.rows * _width(_base_header(t, t.models[0].plan.model)) * base.element_size()
        for t in others
    )
    approximation = served.approximation
    if donor is not None:
        size += _size(donor)
        size += 0 if approximation.reads_in_place else 4 * dimension * (missing + anchors)
    if served.other_matrix is not None:
        size += _size(_header(served.other_matrix))
    sizes = Sizes(
        missing=missing,
        anchors=anchors,
        base_rows=len(base),
        base_dim=_width(base),
        donor_dim=dimension,
        other_dim=0 if served.other_matrix is None else _width(_header(served.other_matrix)),
        dtype=(base if donor is None else donor).dtype,
        device=present(transplant.request.options.device),
    )
    refusal = None
    try:
        cost = approximation.cost(sizes)
    except ValueError as error:
        cost, refusal = Cost(), str(error)
    if served.predict is not None:
        assert isinstance(served.predict, PredictMissing)
        cost = served.predict.cost
    return Step(
        tensor=rows.entry["tensor"],
        part=served.part.value,
        models=tuple(str(plan.model) for plan in sharing),
        donor=None if served.donor is None else str(served.donor.model),
        donor_tensor=None if served.donor is None else served.donor.tensor,
        method=approximation.name,
        k=getattr(approximation, "k", None),
        k_in_force=getattr(approximation.clamped(sizes), "k", None),
        missing=missing,
        anchors=anchors,
        dimension=dimension,
        search=cost.search,
        multiply_adds=cost.multiply_adds - (cost.shared if searched else 0),
        bytes=size + cost.bytes,
        refusal=refusal,
    )


def _same(one: ApproximatedRows, other: ApproximatedRows) -> bool:
    return one is other or (one.encode is not None and one.encode is other.encode)


def _base_header(tensor: TensorRows, model: ModelReference) -> Tensor:
    """As the merge loads it."""
    loads = tensor.planned.permuted.gather_tensors.arguments().values()
    return next(_header(task) for task in loads if task.model == model)


def _width(tensor: Tensor) -> int:
    return tensor.shape[-1] if tensor.ndim > 1 else 1


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _header(task: LoadTensor) -> Tensor:
    found = header(task)
    assert found is not None
    return found


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
