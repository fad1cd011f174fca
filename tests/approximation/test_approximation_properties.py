"""What holds for every method: shapes, dtypes, order, scale, rounding, odd rows, memory."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from approximation_world import (
    DONOR_ONLY,
    random_base,
    random_inputs,
    with_inputs,
    without_donor,
    world,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mergekit_omp.approximation import (
    APPROXIMATIONS,
    AnchorCoding,
    Approximation,
    Code,
    MissingRows,
    Needs,
    Part,
)
from mergekit_omp.approximation.chunks import working_memory
from mergekit_omp.approximation.clp import Clp
from mergekit_omp.approximation.focus import Focus
from mergekit_omp.approximation.knn import Knn
from mergekit_omp.approximation.kriging import Kriging
from mergekit_omp.approximation.linear import Linear
from mergekit_omp.approximation.normal import Normal
from mergekit_omp.approximation.omp import Omp
from mergekit_omp.approximation.subword import Subword
from mergekit_omp.approximation.wechsel import Wechsel
from mergekit_omp.approximation.zett import Zett

METHODS: dict[str, Approximation] = {
    # Zett reads files of its own: test_hypernetwork.py.
    **{name: kind() for name, kind in APPROXIMATIONS.items() if kind is not Zett},
    "omp small": Omp(k=3),
    "omp centred": Omp(k=3, center=True),
    "omp cosine": Omp(k=3, normalize_atoms=True),
    "wechsel sharp": Wechsel(neighbors=3, temperature=0.02),
    "subword last": Subword(input="last", head="first"),
    "subword weighted": Subword(input="weighted", head="mean"),
    "linear weak": Linear(ridge=1e-6),
    "kriging few": Kriging(neighbors=2, ridge=0.1),
    "omp paper": Omp(paper=True),
    **{
        f"knn {metric} {weights}": Knn(k=4, metric=metric, weights=weights)
        for metric in ("euclidean", "cosine")
        for weights in ("inverse_distance", "cosine", "least_squares")
    },
}
DONOR_METHODS = {
    name: method for name, method in METHODS.items() if Needs.DONOR_ROWS in method.needs
}
ANCHOR_METHODS = {name: m for name, m in DONOR_METHODS.items() if not isinstance(m, Wechsel)}
seeds = st.integers(0, 2**16)


def methods(chosen: dict[str, Approximation]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", chosen.values(), ids=chosen.keys())


def close(result: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-4) -> None:
    torch.testing.assert_close(
        result, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max() + 1e-6)
    )


@methods(METHODS)
@given(seed=seeds)
@settings(max_examples=5, deadline=None)
def test_rows_are_finite_and_the_same_every_time(method: Approximation, seed: int) -> None:
    problem = world(seed=seed)
    rows = method.rows(problem)
    assert rows.shape == (problem.inputs.missing, problem.base.shape[1])
    assert rows.isfinite().all()
    assert torch.equal(rows, method.rows(world(seed=seed)))


@methods(METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(method: Approximation, dtype: torch.dtype) -> None:
    problem = world(dtype=dtype)
    inputs = problem.inputs
    wide = with_inputs(
        dataclasses.replace(problem, base=problem.base.float()),
        targets=inputs.targets.float(),
        anchors=inputs.anchors.float(),
        donor=inputs.donor.float(),
    )
    rows = method.rows(problem)
    assert rows.dtype == torch.float32
    close(rows, method.rows(wide), 1e-6)


@methods(METHODS)
def test_float64_is_computed_in_float64(method: Approximation) -> None:
    rows = method.rows(world(dtype=torch.float64))
    assert rows.dtype == torch.float64
    single = method.rows(world(dtype=torch.float64))
    assert torch.equal(rows, single)
    if not isinstance(method, Normal):
        close(rows.float(), method.rows(world()), 2e-3)


@methods({name: m for name, m in METHODS.items() if not isinstance(m, Normal)})
@given(seed=seeds)
@settings(max_examples=4, deadline=None)
def test_the_order_of_targets_is_only_an_order(method: Approximation, seed: int) -> None:
    problem = world(seed=seed)
    inputs = problem.inputs
    order = torch.randperm(inputs.missing, generator=torch.Generator().manual_seed(seed))
    shuffled = with_inputs(
        problem,
        targets=inputs.targets[order],
        texts=dataclasses.replace(inputs.texts, missing=[inputs.texts.missing[i] for i in order]),
    )
    close(method.rows(shuffled), method.rows(problem)[order])


@methods(DONOR_METHODS)
@given(seed=seeds)
@settings(max_examples=4, deadline=None)
def test_the_order_of_anchors_is_only_an_order(method: Approximation, seed: int) -> None:
    problem = world(seed=seed)
    inputs = problem.inputs
    order = torch.randperm(len(inputs.anchors), generator=torch.Generator().manual_seed(seed))
    shuffled = with_inputs(
        problem, anchors=inputs.anchors[order], anchor_rows=inputs.anchor_rows[order]
    )
    close(method.rows(shuffled), method.rows(problem))


@methods(DONOR_METHODS)
@pytest.mark.parametrize("scale", [1e-3, 0.7, 64.0])
def test_the_scale_of_the_donor_does_not_matter(method: Approximation, scale: float) -> None:
    problem = world(seed=3)
    inputs = problem.inputs
    scaled = with_inputs(
        problem,
        targets=inputs.targets * scale,
        anchors=inputs.anchors * scale,
        donor=inputs.donor * scale,
    )
    close(method.rows(scaled), method.rows(problem))


@methods({n: m for n, m in METHODS.items() if not isinstance(m, Normal | Subword)})
def test_the_scale_of_the_base_scales_the_rows(method: Approximation) -> None:
    problem = world(seed=4)
    larger = dataclasses.replace(problem, base=problem.base * 8)
    close(method.rows(larger), method.rows(problem) * 8)


# Kriging reads the rows of pieces: those of a bias say less than those of a head.
@methods({n: m for n, m in METHODS.items() if not isinstance(m, Normal | Kriging)})
def test_a_head_bias_is_one_more_column_of_the_head(method: Approximation) -> None:
    head = world(part=Part.HEAD)
    bias = dataclasses.replace(head, part=Part.HEAD_BIAS, base=head.base[:, :1])
    rows = method.rows(bias)
    assert rows.shape == (head.inputs.missing, 1)
    close(rows, method.rows(head)[:, :1])


@methods(DONOR_METHODS)
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_useless_donor_row_gives_a_usable_row(method: Approximation, value: float) -> None:
    problem = world()
    targets = problem.inputs.targets.clone()
    targets[2] = value
    rows = method.rows(with_inputs(problem, targets=targets))
    assert rows.isfinite().all()
    assert (rows[2] != 0).any()
    others = torch.arange(len(rows)) != 2
    close(rows[others], method.rows(problem)[others])


@methods({n: m for n, m in DONOR_METHODS.items() if n != "omp centred"})
def test_useless_anchors_are_left_out(method: Approximation) -> None:
    problem = world()
    inputs = problem.inputs
    anchors = torch.cat([inputs.anchors, inputs.anchors[:2]])
    anchors[-2], anchors[-1] = 0, float("nan")
    more = with_inputs(
        problem, anchors=anchors, anchor_rows=torch.cat([inputs.anchor_rows, torch.tensor([0, 21])])
    )
    close(method.rows(more), method.rows(problem))


@methods({n: m for n, m in METHODS.items() if n != "zero"})
def test_bad_rows_of_the_base_that_nothing_points_to_do_no_harm(method: Approximation) -> None:
    problem = world()
    for row in (0, -1):
        problem.base[row] = float("nan")
    rows = method.rows(problem)
    assert rows.isfinite().all()
    assert (rows != 0).any(1).all()


@methods(DONOR_METHODS)
def test_one_anchor_is_enough(method: Approximation) -> None:
    problem = world()
    inputs = problem.inputs
    alone = with_inputs(problem, anchors=inputs.anchors[:1], anchor_rows=inputs.anchor_rows[:1])
    rows = method.rows(alone)
    assert rows.isfinite().all()
    if isinstance(method, Clp | Focus):
        close(rows, problem.base[inputs.anchor_rows[:1]].expand(len(rows), -1))


@methods(ANCHOR_METHODS)
def test_no_anchor_is_an_error_that_says_what_to_do(method: Approximation) -> None:
    problem = world()
    inputs = problem.inputs
    none = with_inputs(problem, anchors=inputs.anchors[:0], anchor_rows=inputs.anchor_rows[:0])
    with pytest.raises(ValueError, match=rf"{method.name} has no anchors.*use subword"):
        method.rows(none)


@methods(METHODS)
def test_a_donor_without_weights_works_or_says_what_does(method: Approximation) -> None:
    problem = without_donor(world())
    if Needs.DONOR_ROWS in method.needs:
        with pytest.raises(ValueError, match=rf"{method.name} needs the donor's rows.*mean, zero"):
            method.rows(problem)
    else:
        assert torch.equal(method.rows(problem), method.rows(world()))


@methods(METHODS)
def test_only_what_is_needed_is_read(method: Approximation) -> None:
    problem = world()
    changes = {} if Needs.TEXT in method.needs else {"texts": None}
    if Needs.DONOR_ROWS not in method.needs:
        changes |= {"targets": None, "anchors": None, "donor": None}
    assert torch.equal(method.rows(with_inputs(problem, **changes)), method.rows(problem))


@methods(METHODS)
def test_nothing_missing_is_no_rows(method: Approximation) -> None:
    problem = world()
    inputs = problem.inputs
    none = with_inputs(
        problem,
        missing=0,
        targets=inputs.targets[:0],
        texts=dataclasses.replace(inputs.texts, missing=[]),
    )
    assert method.rows(none).shape == (0, problem.base.shape[1])


@methods({n: m for n, m in METHODS.items() if isinstance(m, AnchorCoding)})
@pytest.mark.parametrize("rescale_norms", [False, True])
def test_one_code_serves_every_base(method: AnchorCoding, rescale_norms: bool) -> None:
    method = method.model_copy(update={"rescale_norms": rescale_norms})
    problem = world()
    tensors = method.encode(problem.inputs).to_tensors()
    code = Code.from_tensors({**tensors, "beside": torch.zeros(1)})
    for seed in (1, 2):
        base = random_base(len(problem.base), 5, seed=seed)
        other = dataclasses.replace(problem, base=base)
        decoded = method.decode(code, base, problem.inputs.anchor_rows, problem.part)
        assert torch.equal(decoded, method.rows(other))


OVER_ANCHORS = {
    name: method
    for name, method in METHODS.items()
    if isinstance(method, AnchorCoding)
    and not isinstance(method, Wechsel)
    and "centred" not in name
}


@methods(OVER_ANCHORS)
def test_residuals_are_what_the_weights_leave(method: AnchorCoding) -> None:
    inputs = world(seed=5).inputs
    code = method.encode(inputs)
    # Rows of the anchors where the base's would be: decoding gives back the approximation.
    stand_ins = torch.zeros(int(inputs.anchor_rows.max()) + 1, inputs.anchors.shape[1])
    stand_ins[inputs.anchor_rows] = inputs.anchors
    left = (inputs.targets - code.decode(stand_ins)).norm(dim=1)
    torch.testing.assert_close(code.residual_norms, left, rtol=1e-3, atol=1e-3)
    assert (code.support_sizes() > 0).all()


@methods({n: m for n, m in METHODS.items() if isinstance(m, AnchorCoding)})
def test_single_weights_are_those_that_decoding_applies(method: AnchorCoding) -> None:
    problem = world(seed=6)
    code = method.encode(problem.inputs)
    decoded = code.decode(problem.base)
    for i, size in enumerate(code.support_sizes().tolist()):
        rows, weights = code.weights(i)
        close(weights @ problem.base[rows.long()], decoded[i], 1e-5)
        assert not size or len(rows) == size


@methods(METHODS)
def test_a_small_memory_budget_changes_nothing(method: Approximation) -> None:
    problem = world()
    whole = method.rows(problem)
    with working_memory(1):
        close(method.rows(problem), whole, 1e-5)


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest storage that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.largest = max(self.largest, leaf.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize(
    "method",
    [Focus(), Clp(), Knn(), Knn(weights="least_squares"), Kriging()],
    ids=lambda m: m.name,
)
def test_missing_times_anchors_is_never_held(method: Approximation) -> None:
    inputs = random_inputs(3000, 2000, 32)
    if Needs.TEXT in method.needs:
        words = [bytes([1 + i % 7, i % 251]) for i in range(3000)]
        texts = dataclasses.replace(world().inputs.texts, missing=words, base=[None] * 2001)
        inputs = dataclasses.replace(inputs, texts=texts)
    base = random_base(2001, 16)
    whole = method.rows(MissingRows(part=Part.INPUT, base=base, inputs=inputs))
    budget = 2 * 2**20
    with working_memory(budget), LargestTensor() as memory:
        rows = method.rows(MissingRows(part=Part.INPUT, base=base, inputs=inputs))
    assert memory.largest <= budget
    assert memory.largest < 3000 * 2000 * 4 / 10
    close(rows, whole, 1e-4)


EXACT = {
    name: method
    for name, method in METHODS.items()
    if isinstance(method, Omp) or (isinstance(method, Knn) and method.weights != "cosine")
}


@methods(EXACT)
@pytest.mark.parametrize("duplicates", [1, 2])
def test_a_token_like_an_anchor_gets_the_row_of_that_anchor(
    method: Approximation, duplicates: int
) -> None:
    problem = world(seed=6)
    inputs = problem.inputs
    anchors, rows = inputs.anchors, inputs.anchor_rows
    if duplicates == 2:
        anchors, rows = torch.cat([anchors, anchors]), torch.cat([rows, rows])
    same = with_inputs(problem, targets=anchors[:8].clone(), anchors=anchors, anchor_rows=rows)
    close(method.rows(same), problem.base[inputs.anchor_rows[:8]])


@pytest.mark.parametrize(
    "method",
    [Focus(), Clp(), Wechsel(temperature=0.01), Knn(k=1), Linear(ridge=1e-9)],
    ids=lambda m: m.name,
)
def test_among_orthogonal_anchors_a_token_gets_the_row_of_its_own(method: Approximation) -> None:
    problem = world()
    inputs = problem.inputs
    anchors = 3 * torch.eye(24)[: len(inputs.anchors)]
    donor = torch.ones_like(inputs.donor)
    same = with_inputs(problem, targets=anchors[:8] / 2, anchors=anchors, donor=donor)
    if isinstance(method, Linear):
        same = with_inputs(same, targets=anchors[:8])
    close(method.rows(same), problem.base[inputs.anchor_rows[:8]])


def test_the_world_has_what_the_tests_are_about() -> None:
    inputs = world().inputs
    assert inputs.missing == len(DONOR_ONLY) + 1
    assert None in inputs.texts.missing
