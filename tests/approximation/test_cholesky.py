"""The factorisation by panels against torch's, at sizes around a panel's."""

from __future__ import annotations

import pytest
import torch

from mergekit_omp.approximation import cholesky


@pytest.mark.parametrize("size", [1, 5, 7, 8, 9, 24, 37])
def test_a_matrix_is_factorised_again_and_again_in_its_own_place(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cholesky, "PANEL", 8)
    generator = torch.Generator().manual_seed(size)
    root = torch.randn((size, size + 3), generator=generator, dtype=torch.float64)
    right = torch.randn((size, 4), generator=generator, dtype=torch.float64)
    whole = root @ root.T
    matrix, diagonal = whole.triu(), whole.diagonal()
    for penalty in (0.3, 7.0):
        done: list[float] = []
        assert cholesky.factorise(matrix, diagonal + penalty, done.append)
        expected = whole + penalty * torch.eye(size, dtype=torch.float64)
        torch.testing.assert_close(matrix.tril(), torch.linalg.cholesky(expected))
        solution = cholesky.solve(matrix, right, done.append)
        torch.testing.assert_close(solution, torch.linalg.solve(expected, right))
        trace = cholesky.trace_of_inverse(matrix, done.append)
        assert trace == pytest.approx(torch.linalg.inv(expected).trace().item(), rel=1e-9)
        assert sum(done) == pytest.approx(3), "each tells how far it is"
        assert min(done) > 0
        torch.testing.assert_close(matrix.triu(1), whole.triu(1), rtol=0, atol=0)


def test_a_matrix_that_is_not_positive_has_no_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cholesky, "PANEL", 2)
    matrix = torch.ones((5, 5), dtype=torch.float64).triu()
    assert not cholesky.factorise(matrix, torch.ones(5, dtype=torch.float64), lambda _: None)
