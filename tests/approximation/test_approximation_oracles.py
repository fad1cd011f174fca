"""Each method against the program or the closed form that it follows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from approximation_world import SHARED, random_base, random_inputs, world
from entmax import sparsemax as entmax_sparsemax
from hypothesis import given, settings
from hypothesis import strategies as st
from langsfer.similarity import CosineSimilarity
from langsfer.weights import IdentityWeights, SoftmaxWeights, SparsemaxWeights, TopKWeights
from mergekit.tokensurgeon.common_interpolation import (
    DistanceMetric,
    WeightingScheme,
    common_interp_approximate,
)
from mergekit.tokensurgeon.omp import batch_omp
from scipy.stats import kstest
from sklearn.linear_model import Ridge, orthogonal_mp

from mergekit_omp.approximation import CodingInputs, MissingRows, Part
from mergekit_omp.approximation.clp import Clp
from mergekit_omp.approximation.focus import Focus
from mergekit_omp.approximation.knn import Knn
from mergekit_omp.approximation.linear import Linear
from mergekit_omp.approximation.mean import Mean
from mergekit_omp.approximation.normal import Normal
from mergekit_omp.approximation.omp import Omp
from mergekit_omp.approximation.sparsemax import sparsemax
from mergekit_omp.approximation.wechsel import Wechsel
from mergekit_omp.approximation.zero import Zero

DOUBLE = torch.float64


def dense(code: object, anchors: int) -> np.ndarray:
    """The weights of a code as a matrix (targets, anchors), anchor i in row i + 1."""
    return code.decode(torch.eye(anchors + 1, dtype=DOUBLE)).numpy()[:, 1:]  # type: ignore[attr-defined]


def langsfer_rows(weights: IdentityWeights, inputs: CodingInputs, base: torch.Tensor) -> np.ndarray:
    """langsfer's weighted average of the base's rows of the anchors."""
    matrix = weights.apply(CosineSimilarity().apply(inputs.targets.numpy(), inputs.anchors.numpy()))
    images = base[inputs.anchor_rows].numpy()
    return matrix @ images / matrix.sum(axis=1)[:, np.newaxis]


def test_zero_and_mean_in_closed_form() -> None:
    problem = world(dtype=DOUBLE)
    assert not Zero().rows(problem).any()
    expected = np.tile(problem.base.numpy().mean(0), (problem.inputs.missing, 1))
    np.testing.assert_allclose(Mean().rows(problem).numpy(), expected, rtol=1e-12)


@given(st.integers(1, 12), st.sampled_from([0.05, 1.0, 30.0]), st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_sparsemax_is_that_of_entmax(width: int, spread: float, seed: int) -> None:
    scores = spread * random_base(6, 40 * width, seed=seed, dtype=DOUBLE)
    torch.testing.assert_close(sparsemax(scores), entmax_sparsemax(scores), rtol=0, atol=1e-12)
    single = scores.float()
    torch.testing.assert_close(sparsemax(single), entmax_sparsemax(single), rtol=0, atol=1e-5)


def test_sparsemax_of_ties_is_uniform_among_them() -> None:
    scores = torch.tensor([[0.5, 0.5, -2.0, 0.5], [3.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[1 / 3, 1 / 3, 0, 1 / 3], [1, 0, 0, 0]])
    torch.testing.assert_close(sparsemax(scores), expected)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_focus_weighs_as_entmax_over_cosines(dtype: torch.dtype) -> None:
    inputs = random_inputs(60, 500, 24, dtype=dtype)
    cosines = torch.from_numpy(CosineSimilarity().apply(inputs.targets, inputs.anchors))
    expected = entmax_sparsemax(cosines)
    np.testing.assert_allclose(dense(Focus().encode(inputs), 500), expected, rtol=0, atol=1e-5)


def test_focus_rows_are_those_of_langsfer() -> None:
    inputs, base = random_inputs(60, 500, 24, dtype=DOUBLE), random_base(501, 16, dtype=DOUBLE)
    rows = Focus().rows(MissingRows(part=Part.INPUT, base=base, inputs=inputs))
    np.testing.assert_allclose(rows, langsfer_rows(SparsemaxWeights(), inputs, base), atol=1e-9)


def test_clp_rows_are_those_of_langsfer() -> None:
    inputs, base = random_inputs(60, 500, 24, dtype=DOUBLE), random_base(501, 16, dtype=DOUBLE)
    rows = Clp().rows(MissingRows(part=Part.INPUT, base=base, inputs=inputs))
    expected = langsfer_rows(IdentityWeights(), inputs, base)
    np.testing.assert_allclose(rows, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("neighbors", "temperature"), [(10, 0.1), (3, 0.5)])
def test_wechsel_rows_are_those_of_langsfer(neighbors: int, temperature: float) -> None:
    problem = world(seed=7, dtype=DOUBLE)
    inputs = problem.inputs
    # The candidates, spelled out: shared tokens, and base tokens as the donor's pieces.
    pieces = {
        b"ha": [b"h", b"a"],
        b"bc": [b"b", b"c"],
        b"cde": [b"cd", b"e"],
        b" ba": [b" b", b"a"],
    }
    anchor = dict(zip(SHARED, inputs.anchors, strict=True))
    candidates = {token: anchor[token] for token in SHARED} | {
        token: torch.stack([anchor[piece] for piece in spelled]).mean(0)
        for token, spelled in pieces.items()
    }
    stand_in = CodingInputs(
        missing=inputs.missing,
        anchor_rows=torch.tensor([inputs.texts.base.index(token) for token in candidates]),
        targets=inputs.targets,
        anchors=torch.stack(list(candidates.values())),
    )
    weights = TopKWeights(k=neighbors).compose(SoftmaxWeights(temperature=temperature))
    expected = langsfer_rows(weights, stand_in, problem.base)
    rows = Wechsel(neighbors=neighbors, temperature=temperature).rows(problem)
    np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_omp_on_raw_atoms_is_that_of_tokensurgeon() -> None:
    inputs = random_inputs(40, 300, 32)
    code = Omp(k=8).encode(inputs)
    indices, coefficients = batch_omp(inputs.targets, inputs.anchors, 8)
    assert torch.equal(code.indices - 1, indices)
    torch.testing.assert_close(code.coefficients, coefficients, rtol=1e-4, atol=1e-5)


def test_omp_on_normalised_atoms_is_that_of_scikit_learn() -> None:
    inputs = random_inputs(40, 300, 32, dtype=DOUBLE)
    norms = inputs.anchors.norm(dim=1, keepdim=True)
    expected = orthogonal_mp(
        (inputs.anchors / norms).T.numpy(), inputs.targets.T.numpy(), n_nonzero_coefs=8
    )
    found = dense(Omp(k=8, normalize_atoms=True).encode(inputs), 300)
    np.testing.assert_allclose(found, (expected / norms.numpy()).T, atol=1e-8)


def test_centred_omp_is_omp_on_centred_rows() -> None:
    inputs, base = random_inputs(40, 300, 32, dtype=DOUBLE), random_base(301, 16, dtype=DOUBLE)
    middle, image = inputs.anchors.mean(0), base[1:].mean(0)
    centred = CodingInputs(
        missing=40,
        anchor_rows=inputs.anchor_rows,
        targets=inputs.targets - middle,
        anchors=inputs.anchors - middle,
    )
    expected = image + Omp(k=8).encode(centred).decode(base - image)
    rows = Omp(k=8, center=True).rows(MissingRows(part=Part.INPUT, base=base, inputs=inputs))
    torch.testing.assert_close(rows, expected)


@pytest.mark.parametrize(
    ("ours", "metric", "scheme"),
    [
        (Knn(k=5, metric="euclidean", weights="inverse_distance"), "euclidean", "distance"),
        (Knn(k=5, metric="cosine", weights="cosine"), "cosine", "distance"),
        (Knn(k=5, metric="euclidean", weights="least_squares"), "euclidean", "least_squares"),
        (Knn(k=5, metric="cosine", weights="least_squares"), "cosine", "least_squares"),
    ],
    ids=str,
)
def test_knn_is_that_of_tokensurgeon(ours: Knn, metric: str, scheme: str) -> None:
    inputs = random_inputs(50, 200, 16)
    schemes = {
        "distance": WeightingScheme.DISTANCE_PROPORTIONAL,
        "least_squares": WeightingScheme.LEAST_SQUARES,
    }
    indices, weights = common_interp_approximate(
        inputs.targets,
        inputs.anchors,
        k=5,
        metric=DistanceMetric(metric),
        weight_scheme=schemes[scheme],
    )
    expected = torch.zeros(50, 200).scatter_(1, indices, weights)
    np.testing.assert_allclose(dense(ours.encode(inputs), 200), expected, atol=2e-5)


def test_knn_with_more_neighbours_than_anchors_uses_all(caplog: pytest.LogCaptureFixture) -> None:
    inputs = random_inputs(5, 7, 4)
    few, all_ = Knn(k=7).encode(inputs), Knn(k=70).encode(inputs)
    assert torch.equal(few.indices, all_.indices)
    assert torch.equal(few.coefficients, all_.coefficients)
    assert "k reduced from 70 to 7" in caplog.text


def test_knn_of_opposite_anchors_has_no_cosine_weights() -> None:
    inputs = CodingInputs(
        missing=2,
        anchor_rows=torch.tensor([1, 2]),
        targets=torch.tensor([[-0.1, 0.0], [0.1, 0.0]]),
        anchors=torch.tensor([[1.0, 0.0], [50.0, 0.0]]),
    )
    base = random_base(4, 6)
    rows = Knn(k=1, metric="euclidean").rows(MissingRows(part=Part.INPUT, base=base, inputs=inputs))
    torch.testing.assert_close(rows, torch.stack([base.mean(0), base[1]]))


@pytest.mark.parametrize(("anchors", "dim"), [(200, 16), (12, 40)], ids=["tall", "wide"])
@pytest.mark.parametrize("ridge", [1e-6, 0.1, 10.0])
def test_linear_is_ridge_regression(anchors: int, dim: int, ridge: float) -> None:
    inputs = random_inputs(30, anchors, dim, dtype=DOUBLE)
    base = random_base(anchors + 1, 8, dtype=DOUBLE)
    rows = Linear(ridge=ridge).rows(MissingRows(part=Part.INPUT, base=base, inputs=inputs))
    x = inputs.anchors.numpy()
    penalty = ridge * ((x - x.mean(0)) ** 2).sum() / dim
    oracle = Ridge(alpha=penalty, solver="svd").fit(x, base[inputs.anchor_rows].numpy())
    np.testing.assert_allclose(rows, oracle.predict(inputs.targets.numpy()), rtol=1e-6, atol=1e-8)


def test_linear_recovers_an_affine_map() -> None:
    inputs = random_inputs(30, 200, 16)
    affine, offset = random_base(16, 8), random_base(1, 8, seed=2)
    base = torch.cat([torch.zeros(1, 8), inputs.anchors @ affine + offset])
    rows = Linear(ridge=1e-9).rows(MissingRows(part=Part.INPUT, base=base, inputs=inputs))
    torch.testing.assert_close(rows, inputs.targets @ affine + offset, rtol=1e-4, atol=1e-4)


def test_normal_has_the_moments_of_the_base() -> None:
    mixing = random_base(6, 6, seed=3)
    base = random_base(3000, 6, seed=2) @ mixing + 5
    inputs = CodingInputs(missing=40_000, anchor_rows=torch.arange(0))
    rows = (
        Normal(seed=1).rows(MissingRows(part=Part.INPUT, base=base, inputs=inputs)).double().numpy()
    )
    centre, covariance = base.double().numpy().mean(0), np.cov(base.double().numpy().T)
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (rows - centre).T)
    np.testing.assert_allclose(whitened.mean(1), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(whitened), np.eye(6), atol=0.04)
    assert min(kstest(row, "norm").pvalue for row in whitened) > 1e-4


def test_normal_differs_by_seed_and_part_but_not_by_base() -> None:
    problem = world()
    rows = Normal(seed=1).rows(problem)
    assert not torch.equal(rows, Normal(seed=2).rows(problem))
    assert not torch.allclose(rows, Normal(seed=1).rows(world(part=Part.HEAD)))
    shifted = MissingRows(part=Part.INPUT, base=problem.base + 1, inputs=problem.inputs)
    torch.testing.assert_close(Normal(seed=1).rows(shifted), rows + 1, rtol=1e-4, atol=1e-4)


def test_normal_stays_where_the_rows_are() -> None:
    base = random_base(5, 40)  # fewer rows than dimensions
    base[:, 3] = 2  # and a constant one
    inputs = CodingInputs(missing=200, anchor_rows=torch.arange(0))
    rows = Normal().rows(MissingRows(part=Part.INPUT, base=base, inputs=inputs))
    centre = base.mean(0)
    span = torch.linalg.qr((base - centre).T).Q
    offsets = rows - centre
    torch.testing.assert_close(offsets @ span @ span.T, offsets, rtol=0, atol=0.02)
    torch.testing.assert_close(rows[:, 3], torch.full((200,), 2.0), rtol=0, atol=0.02)
