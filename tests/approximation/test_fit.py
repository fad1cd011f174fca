"""What methods tell of each row that they approximated."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from approximation_world import SHARED, random_base, with_inputs, world
from test_kriging import gcv, noisy

from mergekit_omp.approximation import APPROXIMATIONS, CodingInputs, MissingRows, Part, Texts
from mergekit_omp.approximation.fit import FITS, PREDICTED_ERROR, RELATIVE_RESIDUAL, SIMILARITY
from mergekit_omp.approximation.kriging import Kriging
from mergekit_omp.approximation.linear import Linear
from mergekit_omp.approximation.ridge import fit_ridge
from mergekit_omp.approximation.subword import Subword

DOUBLE = torch.float64
METHODS = [name for name in APPROXIMATIONS if name != "zett"]


@pytest.mark.parametrize("part", list(Part))
@pytest.mark.parametrize("name", METHODS)
def test_a_method_tells_the_figure_that_its_class_names(name: str, part: Part) -> None:
    problem = world(part=part)
    method = APPROXIMATIONS[name]()
    method.rows(problem)
    told = problem.inputs.row_fit
    assert list(told) == ([] if method.fit is None else [method.fit.key])
    for figures in told.values():
        assert figures.shape == (problem.inputs.missing,)
        assert not figures.isinf().any() and figures.isfinite().sum() >= 6
    assert FITS.keys() >= told.keys()


@pytest.mark.parametrize("name", METHODS)
def test_what_rows_are_made_of_is_told_of_a_few_as_of_all(name: str) -> None:
    problem, method = world(), APPROXIMATIONS[name]()
    code = method.made_of(problem)
    assert (code is None) == (method.parts is None)
    if code is None:
        return
    for i in (0, 5):
        texts = problem.inputs.texts
        assert texts is not None and problem.inputs.targets is not None
        alone = with_inputs(
            problem,
            missing=1,
            targets=problem.inputs.targets[i : i + 1],
            texts=dataclasses.replace(texts, missing=[texts.missing[i]]),
        )
        few = method.made_of(alone)
        assert few is not None
        for one, other in zip(code.weights(i), few.weights(0), strict=True):
            torch.testing.assert_close(one, other)


def test_subwords_pieces_and_weights_make_its_rows() -> None:
    problem, method = world(part=Part.HEAD), Subword()
    rows, made = method.rows(problem), method.made_of(problem).decode(problem.base)
    whole = method.made_of(problem).support_sizes() > 0
    torch.testing.assert_close(rows[whole], made[whole])
    pieces = problem.inputs.row_fit["pieces"]
    assert torch.equal(pieces[whole], method.made_of(problem).support_sizes()[whole].float())
    assert pieces[~whole].isnan().all() and (~whole).sum() == 1


@pytest.mark.parametrize("name", ["wechsel", "focus"])
def test_similarity_is_the_weighted_mean_of_cosines(name: str) -> None:
    problem = world()
    texts, donor = problem.inputs.texts, problem.inputs.donor
    assert texts is not None and donor is not None and problem.inputs.targets is not None
    # Without tokens of the base's own, all of which the donor would have to spell.
    base: list[bytes | None] = [text if text in SHARED else None for text in texts.base]
    problem = with_inputs(problem, texts=dataclasses.replace(texts, base=base))
    code = APPROXIMATIONS[name]().made_of(problem)
    assert code is not None
    row_of = dict(zip(problem.inputs.anchor_rows.tolist(), problem.inputs.anchors, strict=True))
    expected = []
    for i, target in enumerate(problem.inputs.targets):
        rows, weights = code.weights(i)
        atoms = torch.stack([row_of[row] for row in rows.tolist()])
        expected.append((weights * torch.cosine_similarity(target, atoms)).sum())
    found = problem.inputs.row_fit[SIMILARITY.key]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_a_token_without_a_row_in_the_donor_is_not_fitted_at_all() -> None:
    for name in METHODS:
        method = APPROXIMATIONS[name]()
        if method.fit in (PREDICTED_ERROR, RELATIVE_RESIDUAL, SIMILARITY):
            problem = world()
            assert problem.inputs.targets is not None
            problem.inputs.targets[0] = 0
            method.rows(problem)
            figure = float(problem.inputs.row_fit[method.fit.key][0])
            assert figure == 1 if method.fit is PREDICTED_ERROR else np.isnan(figure), name


@pytest.mark.parametrize("ridge", [None, 0.3])
def test_the_regressions_squared_error_is_that_of_cross_validation(ridge: float | None) -> None:
    x, y = noisy(80, 12, 4, 1.0, seed=5)
    fit = fit_ridge(lambda: iter([(x, y)]), 12, 4, device=torch.device("cpu"), ridge=ridge)
    assert fit.squared_error == pytest.approx(gcv(x.numpy(), y.numpy(), fit.ridge) / 80)


@pytest.mark.parametrize("method", [Kriging(head_gain=1.0), Linear()], ids=lambda m: m.name)
@pytest.mark.parametrize("noise", [0.2, 1.0, 3.0])
def test_predicted_errors_are_those_that_are_made(method: Kriging | Linear, noise: float) -> None:
    anchors, missing, dim, width = 1500, 300, 20, 30
    latent = random_base(anchors + missing, dim, seed=1, dtype=DOUBLE)
    true = latent @ random_base(dim, width, seed=2, dtype=DOUBLE)
    true += noise * dim**0.5 * random_base(len(true), width, seed=3, dtype=DOUBLE) + 5
    silent = Texts([None] * missing, [None] * anchors, [], lambda t: [], lambda t: [])
    inputs = CodingInputs(
        missing=missing,
        anchor_rows=torch.arange(anchors),
        targets=latent[anchors:],
        anchors=latent[:anchors],
        donor=latent,
        texts=silent,
    )
    problem = MissingRows(part=Part.HEAD, base=true[:anchors], inputs=inputs)
    rows = method.rows(problem)
    made = (rows - true[anchors:]).square().sum(1).mean()
    share = inputs.row_fit[PREDICTED_ERROR.key].square()
    known = (rows - true[:anchors].mean(0)).square().sum(1)
    predicted = (known * share / (1 - share)).mean()
    assert float(predicted) == pytest.approx(float(made), rel=0.12)


def test_a_token_with_near_neighbours_is_predicted_better() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 16, generator=generator, dtype=DOUBLE)
    near = centres.repeat_interleave(10, 0)
    near += 0.05 * torch.randn(near.shape, generator=generator, dtype=DOUBLE)
    lonely = torch.randn(10, 16, generator=generator, dtype=DOUBLE)
    silent = Texts([None] * 20, [None] * 200, [], lambda t: [], lambda t: [])
    inputs = CodingInputs(
        missing=20,
        anchor_rows=torch.arange(200),
        targets=torch.cat([centres[:10], lonely]),
        anchors=near,
        donor=near,
        texts=silent,
    )
    base = torch.randn(200, 8, generator=generator, dtype=DOUBLE)
    # A regression that knows nothing, so that only the neighbours count.
    Kriging(ridge=1e9).rows(MissingRows(part=Part.HEAD, base=base, inputs=inputs))
    errors = inputs.row_fit[PREDICTED_ERROR.key]
    assert errors[:10].mean() < errors[10:].mean()
