"""Parameters: what is refused and how, norms, which part's rows, what is declared."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pytest
import torch
from approximation_world import random_base, random_inputs, with_inputs, world
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from mergekit_omp import approximation
from mergekit_omp.approximation import (
    APPROXIMATIONS,
    AnchorCoding,
    Approximation,
    CodingInputs,
    MissingRows,
    Needs,
    Part,
    Sizes,
    without_donor_rows,
)
from mergekit_omp.approximation.anchors import donor_rows
from mergekit_omp.approximation.focus import Focus
from mergekit_omp.approximation.knn import Knn
from mergekit_omp.approximation.linear import Linear
from mergekit_omp.approximation.mean import Mean
from mergekit_omp.approximation.norms import match_norms
from mergekit_omp.approximation.omp import Omp
from mergekit_omp.approximation.parameters import PositiveInt
from mergekit_omp.approximation.subword import Subword
from mergekit_omp.approximation.wechsel import Wechsel
from mergekit_omp.approximation.zero import Zero
from mergekit_omp.approximation.zett import Zett
from mergekit_omp.pursuit import SparseCode

WITHOUT_FILES = [kind for kind in APPROXIMATIONS.values() if kind is not Zett]
"""Zett reads a hypernetwork: test_hypernetwork.py."""


def test_the_mission_comes_first() -> None:
    assert list(APPROXIMATIONS)[:5] == ["omp", "mean", "zero", "wechsel", "focus"]
    assert set(APPROXIMATIONS) == {
        *("omp", "mean", "zero", "wechsel", "focus"),
        *("kriging", "subword", "clp", "knn", "linear", "normal", "zett"),
    }


@pytest.mark.parametrize(
    ("dimension", "anchors", "k"),
    [
        *[(4, 900, 4), (100, 900, 8), (512, 900, 8), (576, 900, 9), (1024, 900, 16)],
        *[(4096, 900, 64), (8192, 300, 64), (2048, 5, 5)],
    ],
)
def test_the_default_k_follows_the_dimension(dimension: int, anchors: int, k: int) -> None:
    assert Omp().sparsity(dimension, anchors) == k
    inputs = random_inputs(3, anchors, dimension)
    assert Omp().encode(inputs).support_sizes().tolist() == [k] * 3


@pytest.mark.parametrize("kind", WITHOUT_FILES, ids=lambda kind: kind.name)
def test_what_is_in_force_is_known_before_and_told_after(kind: type[Approximation]) -> None:
    asked = {name: 400 for name in ("k", "neighbors") if name in kind.model_fields}
    method, problem = kind(**asked), world()
    sizes = sizes_of(problem)
    rows = method.rows(problem)
    told = method.parameters_in_force(problem.inputs)
    assert told.keys() == kind.model_fields.keys()
    assert "auto" not in told.values() and told.get("k", 0) is not None
    clamped = method.clamped(sizes)
    assert type(clamped) is kind
    torch.testing.assert_close(clamped.rows(world()), rows)
    if "k" in asked:
        assert told["k"] == clamped.model_dump()["k"] < 400
    # What was in force is a config that gives the rows again.
    torch.testing.assert_close(kind(**told).rows(world()), rows)
    assert 0 <= kind().cost(sizes).multiply_adds < float("inf")


def sizes_of(problem: MissingRows) -> Sizes:
    inputs = problem.inputs
    return Sizes(
        missing=inputs.missing,
        anchors=len(inputs.anchor_rows),
        base_rows=len(problem.base),
        base_dim=problem.base.shape[1],
        donor_dim=inputs.anchors.shape[1],
    )


def test_a_larger_problem_costs_more() -> None:
    small = Sizes(missing=500, anchors=800, base_rows=1000, base_dim=32, donor_dim=64)
    large = Sizes(missing=5000, anchors=8000, base_rows=9000, base_dim=320, donor_dim=640)
    for name, kind in APPROXIMATIONS.items():
        # What zett takes depends on its hypernetwork, which says so (`OpenedHypernetwork.cost`).
        free = name in ("mean", "zero", "subword", "zett")
        costs = [kind().cost(sizes).multiply_adds for sizes in (small, large)]
        assert (costs == [0, 0]) if free else (100 * costs[0] < costs[1]), name


def test_a_search_that_does_not_fit_is_refused_beforehand() -> None:
    sizes = Sizes(missing=5000, anchors=8000, base_rows=9000, base_dim=320, donor_dim=640)
    with pytest.raises(ValueError, match="GB of memory"):
        Omp(memory="1MB").cost(sizes)


def test_methods_say_themselves_what_works_without_donor_rows() -> None:
    assert without_donor_rows() == (
        "mean, zero, subword, normal and zett need no donor weights, nor do wechsel, focus and "
        "clp with `auxiliary: <file of vectors>`"
    )


def test_the_example_of_the_contributors_guide_is_a_method() -> None:
    guide = Path(__file__).parents[2] / "docs" / "contributing.md"
    (code,) = re.findall(r"```python\n(class SameNorm.*?)```", guide.read_text(), re.DOTALL)
    names = {**vars(approximation), "donor_rows": donor_rows, "PositiveInt": PositiveInt}
    names |= {"ClassVar": ClassVar, "Field": Field, "torch": torch, "SparseCode": SparseCode}
    exec(compile(code, str(guide), "exec", dont_inherit=True), names)
    kind = names["SameNorm"]
    problem = world()
    assert kind(k=3).encode(problem.inputs).support_sizes().tolist() == [3] * problem.inputs.missing
    assert kind().rows(problem).shape == (problem.inputs.missing, problem.base.shape[1])
    assert kind().cost(sizes_of(problem)).multiply_adds > 0


def test_the_papers_settings_are_one_parameter_away() -> None:
    inputs = random_inputs(5, 300, 96)
    paper, written = Omp(paper=True).encode(inputs), Omp(k=64).encode(inputs)
    assert torch.equal(paper.indices, written.indices)
    assert torch.equal(paper.coefficients, written.coefficients)
    assert Omp().encode(inputs).support_sizes().tolist() == [8] * 5
    assert Omp(paper=True, k=5).sparsity(96, 300) == 5
    assert Omp(paper=True).sparsity(96, 30) == 30


def test_omp_moves_rows_of_the_head_from_the_mean_of_the_anchors() -> None:
    problem = world(part=Part.HEAD)
    mean = problem.base[problem.inputs.anchor_rows].mean(0)
    for asked in ({}, {"center": True}, {"paper": True}, {"k": 3}):
        plain, moved = (Omp(**asked, head_gain=gain).rows(problem) for gain in (1.0, 1.5))
        torch.testing.assert_close(moved - mean, 1.5 * (plain - mean))
        assert torch.equal(Omp(**asked).rows(problem), plain) == ("paper" in asked or "k" in asked)
    entry = dataclasses.replace(problem, part=Part.INPUT)
    assert torch.equal(Omp(head_gain=1.5).rows(entry), Omp().rows(entry))
    tied, head = (Omp(head_gain=1.5).rows(p) for p in (tie(entry), problem))
    assert torch.equal(tied, head)


def tie(problem: MissingRows) -> MissingRows:
    return dataclasses.replace(problem, part=Part.INPUT, tied=True)


def test_the_gain_in_force_is_told() -> None:
    for asked, gain in (({}, 1.15), ({"k": 3}, 1.0), ({"paper": True}, 1.0)):
        problem, method = world(part=Part.HEAD), Omp(**asked)
        method.rows(problem)
        assert method.parameters_in_force(problem.inputs)["head_gain"] == gain
        assert method.clamped(sizes_of(problem)).head_gain == gain
        repeated = Omp(**method.parameters_in_force(problem.inputs))
        assert torch.equal(repeated.rows(problem), method.rows(problem))


def test_a_row_of_the_head_has_no_more_than_one_share_of_the_mean() -> None:
    """Donor rows that are known sums of anchors, so that the coefficients are known too."""
    directions = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    weights = torch.tensor([[1.5, 0.9, 0.0], [0.7, 0.2, 0.0], [0.9, -0.6, 1.4], [0.0, 0.0, -2.0]])
    atoms, base = directions[:3], random_base(4, 5, dtype=torch.float64)
    anchor_rows = torch.tensor([2, 0, 3])
    problem = MissingRows(
        part=Part.HEAD,
        base=base,
        inputs=CodingInputs(
            missing=4, anchor_rows=anchor_rows, targets=weights.double() @ atoms, anchors=atoms
        ),
    )
    of_anchors = base[anchor_rows].numpy()
    plain = weights.double().numpy() @ of_anchors
    # The first and the third have 1.4 and 0.7 shares too many.
    capped = plain - np.array([[1.4], [0.0], [0.7], [0.0]]) * of_anchors.mean(0)
    entry = dataclasses.replace(problem, part=Part.INPUT)
    bias = dataclasses.replace(problem, part=Part.HEAD_BIAS)
    for alike in (problem, tie(problem), bias):
        np.testing.assert_allclose(Omp(k=3).rows(alike), capped, atol=1e-6)
        np.testing.assert_allclose(Omp(paper=True).rows(alike), plain, atol=1e-6)
    np.testing.assert_allclose(Omp(k=3).rows(entry), plain, atol=1e-6)


def test_omp_leaves_a_head_row_that_could_not_be_coded_at_the_mean() -> None:
    problem = world(part=Part.HEAD)
    targets = problem.inputs.targets.clone()
    targets[0] = 0
    rows = Omp(head_gain=2.0).rows(with_inputs(problem, targets=targets))
    torch.testing.assert_close(rows[0], problem.base.mean(0))


def test_published_defaults() -> None:
    assert (Wechsel().neighbors, Wechsel().temperature, Wechsel().copy_shared) == (10, 0.1, True)
    assert (Subword().input, Subword().head) == ("mean", "weighted")


@pytest.mark.parametrize("kind", APPROXIMATIONS.values(), ids=APPROXIMATIONS.keys())
def test_every_parameter_is_a_described_scalar_with_a_valid_default(
    kind: type[Approximation],
) -> None:
    assert inspect.getdoc(kind)
    for name, field in kind.model_fields.items():
        assert field.description, name
        adapter = TypeAdapter(
            Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        )
        value = adapter.validate_python(field.default)
        assert value is None or isinstance(value, bool | int | float | str)


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (Omp, {"k": "64"}, "'64' is not a number"),
        (Omp, {"k": True}, "True is not a number"),
        (Omp, {"k": 0}, "greater than or equal to 1"),
        (Omp, {"k": -3}, "greater than or equal to 1"),
        (Omp, {"k": 2.5}, "2.5 is not whole"),
        (Omp, {"sparsity": 3}, "sparsity"),
        (Knn, {"k": 0}, "greater than or equal to 1"),
        (Knn, {"metric": "manhattan"}, "'euclidean' or 'cosine'"),
        (Wechsel, {"temperature": 0}, "greater than 0"),
        (Wechsel, {"temperature": float("nan")}, "greater than 0|finite"),
        (Wechsel, {"temperature": True}, "True is not a number"),
        (Wechsel, {"neigbours": 5}, "neigbours"),
        (Linear, {"ridge": 0}, "greater than 0"),
        (Focus, {"seed": -1}, "greater than or equal to 0"),
        (Focus, {"auxiliary": ""}, "there is no such file"),
        (Focus, {"weights_from": "head"}, "'separate' or 'embed'"),
        (Subword, {"head": "middle"}, "'mean', 'first', 'last' or 'weighted'"),
    ],
)
def test_bad_parameters_are_refused(
    kind: type[Approximation], parameters: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        kind(**parameters)


def test_numbers_as_a_config_may_write_them() -> None:
    assert Omp(k=64.0) == Omp(k=64)
    assert Wechsel(temperature="1e-1") == Wechsel(temperature=0.1)
    assert len({Omp(k=3), Omp(k=3), Omp(k=4)}) == 2


@pytest.mark.parametrize("kind", APPROXIMATIONS.values(), ids=APPROXIMATIONS.keys())
def test_the_head_may_reuse_the_weights_of_the_input(kind: type[Approximation]) -> None:
    own = {Part.INPUT: Part.INPUT, Part.HEAD: Part.HEAD, Part.HEAD_BIAS: Part.HEAD}
    assert {part: kind().space_part(part) for part in Part} == own
    if issubclass(kind, AnchorCoding):
        reused = kind(weights_from="embed")
        assert {reused.space_part(part) for part in Part} == {Part.INPUT}


def test_what_each_method_needs(tmp_path: Path) -> None:
    needs = {name: {need.value for need in kind().needs} for name, kind in APPROXIMATIONS.items()}
    assert needs == {
        **{name: set() for name in ("mean", "zero", "normal")},
        **{name: {"donor_rows"} for name in ("omp", "focus", "clp", "knn", "linear")},
        "kriging": {"other_matrix", "donor_rows", "text"},
        "wechsel": {"donor_rows", "text"},
        "subword": {"text"},
        "zett": {"base_matrices", "text"},
    }
    for name in ("wechsel", "focus", "clp"):
        file = tmp_path / "w.vec"
        file.touch()
        assert APPROXIMATIONS[name](auxiliary=str(file)).needs == {Needs.TEXT}


def test_wechsel_and_zett_as_published_give_shared_tokens_new_rows() -> None:
    assert all(kind().copies_shared for kind in APPROXIMATIONS.values())
    for kind in (Wechsel, Zett):
        assert not kind(copy_shared=False).copies_shared


@given(st.integers(0, 2**16), st.integers(1, 60))
def test_rescaled_rows_have_the_norms_of_the_base(seed: int, missing: int) -> None:
    rows, base = random_base(missing, 6, seed=seed), 3 * random_base(60, 6, seed=seed + 1)
    scaled = match_norms(rows, base)
    norms, reference = scaled.norm(dim=1), base.norm(dim=1)
    assert torch.equal(norms.argsort(), rows.norm(dim=1).argsort())
    torch.testing.assert_close(
        scaled / norms[:, None], rows / rows.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5
    )
    if missing == 60:
        torch.testing.assert_close(norms.sort().values, reference.sort().values)
    if missing == 1:
        torch.testing.assert_close(norms[0], reference.quantile(0.5))
    assert norms.min() >= reference.min() * 0.999 and norms.max() <= reference.max() * 1.001


def test_equal_norms_stay_equal_and_odd_rows_stay_out() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [float("nan"), 1.0]])
    base = torch.tensor([[3.0, 4.0], [0.0, 7.0], [0.0, 9.0], [0.0, 0.0], [float("inf"), 0.0]])
    scaled = match_norms(rows, base)
    assert scaled[:3].tolist() == [[7, 0], [0, 7], [0, 0]]
    assert scaled[3].isnan().any()


@pytest.mark.parametrize("kind", WITHOUT_FILES, ids=lambda kind: kind.name)
def test_norms_are_rescaled_on_request_and_never_for_biases(kind: type[Approximation]) -> None:
    for part in Part:
        problem = world(part=part)
        if part == Part.HEAD_BIAS:
            problem = dataclasses.replace(problem, base=problem.base[:, :1])
        plain, rescaled = kind().rows(problem), kind(rescale_norms=True).rows(problem)
        if part == Part.HEAD_BIAS or kind in (Zero,):
            assert torch.equal(plain, rescaled)
        else:
            torch.testing.assert_close(rescaled, match_norms(plain, problem.base))
            assert not torch.allclose(plain, rescaled)


def test_rescaling_the_mean_gives_it_the_median_norm() -> None:
    problem = world()
    norms = Mean(rescale_norms=True).rows(problem).norm(dim=1)
    torch.testing.assert_close(norms, problem.base.norm(dim=1).quantile(0.5).expand_as(norms))


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("4GB", 4 * 10**9),
        ("500 mb", 5 * 10**8),
        (123456, 123456),
        ("2GiB", 2 << 30),
        ("1.5G", 15 * 10**8),
    ],
)
def test_memory_is_an_amount(text: str | int, amount: int) -> None:
    assert Omp(memory=text).memory == amount


@pytest.mark.parametrize("text", ["much", True, -4, "-4GB", "4 apples", [4]])
def test_memory_that_is_no_amount(text: object) -> None:
    with pytest.raises(ValidationError, match="such as 4GB"):
        Omp(memory=text)


def test_search_is_one_of_the_pursuits() -> None:
    assert Omp(search="reference").search == "reference"
    with pytest.raises(ValidationError, match="'auto', 'reference'"):
        Omp(search="quick")
