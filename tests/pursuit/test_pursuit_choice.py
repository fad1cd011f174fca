"""Memory budgets, the choice among searches, batches, threads and machines without Numba."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys

import pytest
import torch
from here import EVERY_SEARCH, EXACT_SEARCHES, WAYS
from pursuit_dictionaries import dictionary

from mergekit_omp.kernels import compiled
from mergekit_omp.pursuit import orthogonal_matching_pursuit
from mergekit_omp.pursuit.choice import choose, free_memory
from mergekit_omp.pursuit.lockstep import Exhaustive, in_batches, solve_in_lockstep
from mergekit_omp.pursuit.problem import Problem, prepare
from mergekit_omp.pursuit.sparse_code import SparseCode
from mergekit_omp.pursuit.ways import Way, available, obstacle


def sized(targets: int, atoms: int, dim: int, k: int = 64) -> Problem:
    """A problem of some sizes that takes no memory."""
    zero = torch.zeros(1)
    return Problem(
        targets=zero.expand(targets, dim),
        atoms=zero.expand(atoms, dim),
        target_norms=zero.expand(targets),
        atom_norms=zero.expand(atoms),
        usable=torch.ones(1, dtype=torch.bool).expand(atoms),
        sparsity=k,
        tolerance=1e-5,
    )


@pytest.fixture
def no_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without any instruction that would help."""
    monkeypatch.setenv("MERGEKIT_OMP_INSTRUCTIONS", "")


@pytest.mark.usefixtures("no_instructions")
@pytest.mark.parametrize(
    ("budget", "dtype"),
    [(8 << 30, torch.int16), (2 << 30, torch.int8), (1 << 29, None)],
)
def test_auto_takes_the_gram_matrix_that_fits(budget: int, dtype: torch.dtype | None) -> None:
    plan = choose(sized(40_000, 32_000, 2048), "auto", budget)
    assert plan.gram == (dtype if Way.GRAM in WAYS else None)
    assert plan.bytes <= budget
    assert plan.verified


def test_a_gram_matrix_is_not_built_for_a_few_targets() -> None:
    assert choose(sized(10, 32_000, 2048), "auto", 64 << 30).search != "gram"
    many = choose(sized(20_000, 32_000, 2048), "auto", 64 << 30)
    assert many.search == "gram" or Way.GRAM not in WAYS


def test_batches_shrink_with_the_budget() -> None:
    problem = sized(5000, 30_000, 1024)
    batches = [choose(problem, "reference", budget << 20).batch for budget in (30, 100, 400, 4000)]
    assert batches == sorted(batches) and batches[0] < batches[-1]


def test_fast_falls_back_to_what_fits() -> None:
    plan = choose(sized(20_000, 110_000, 2048), "fast", 3 << 30)
    assert plan.verified and plan.search != "gram"


def test_a_search_that_does_not_fit_says_what_it_needs() -> None:
    message = r"search 'reference' needs at least 0\.\d+ GB .*'auto'"
    with pytest.raises(ValueError, match=message):
        choose(sized(20_000, 110_000, 2048), "reference", 1 << 20)


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_search_runs_or_says_why_not(way: Way, device: str) -> None:
    reason = obstacle(way, torch.device(device))
    assert (reason is None) == (way in available(torch.device(device)))
    assert reason is None or "numba" in reason.lower() or "processor" in reason or "cuda" in reason
    assert reason is None or way.search != "reference"


def test_the_default_budget_is_part_of_what_is_free() -> None:
    assert (
        0
        < free_memory(torch.device("cpu"))
        < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )


def test_the_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    targets, atoms = dictionary(30, 200, 16)
    with caplog.at_level(logging.INFO):
        orthogonal_matching_pursuit(targets, atoms, 4, search="screened")
    told = [text for text in caplog.messages if not text.startswith("compiling, once: ")]
    (message,) = told
    assert message.startswith("pursuit of 30 targets over 200 atoms, k = 4: search screened")


@pytest.mark.parametrize("search", EXACT_SEARCHES)
def test_small_batches_give_the_same_code(search: str) -> None:
    targets, atoms = dictionary(40, 3000, 64)
    plenty = orthogonal_matching_pursuit(targets, atoms, 10, search=search)
    problem = prepare(targets, atoms, 10, None)
    for budget in (24, 60, 100):
        least = budget << 20
        try:
            plan = choose(problem, search, least)
        except ValueError:
            continue
        scarce = orthogonal_matching_pursuit(targets, atoms, 10, search=search, memory=least)
        assert plan.batch <= 40
        assert torch.equal(scarce.indices, plenty.indices)
        torch.testing.assert_close(scarce.coefficients, plenty.coefficients)


class ShortOfMemory:
    """Solves up to a number of targets at a time; more is out of memory."""

    def __init__(self, problem: Problem, most: int) -> None:
        self.search = Exhaustive(problem)
        self.most = most
        self.sizes: list[int] = []

    def __call__(self, part: Problem) -> SparseCode:
        self.sizes.append(len(part.targets))
        if len(part.targets) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return solve_in_lockstep(part, self.search)


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    targets, atoms = dictionary(30, 100, 16)
    problem = prepare(targets, atoms, 4, None)
    short = ShortOfMemory(problem, 5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one batch after another
    try:
        code = in_batches(problem, short, 16)
    finally:
        torch.set_num_threads(threads)
    assert short.sizes == [16, 8, 4, 4, 4, 4, 4, 4, 4, 2]
    assert torch.equal(code.indices, orthogonal_matching_pursuit(targets, atoms, 4).indices)


def test_out_of_memory_for_one_target_is_an_error() -> None:
    problem = prepare(*dictionary(3, 10, 4), 2, None)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        in_batches(problem, ShortOfMemory(problem, 0), 2)


@pytest.mark.parametrize("search", EVERY_SEARCH)
def test_any_number_of_threads_gives_the_same_bytes(search: str) -> None:
    targets, atoms = dictionary(133, 2600, 248)
    before = torch.get_num_threads()
    codes = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            codes.append(orthogonal_matching_pursuit(targets, atoms, 12, search=search))
    finally:
        torch.set_num_threads(before)
    for code in codes[1:]:
        assert torch.equal(codes[0].indices, code.indices)
        assert torch.equal(codes[0].coefficients, code.coefficients)
        assert torch.equal(codes[0].residual_norms, code.residual_norms)


def test_torch_alone_works(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, atoms = dictionary(20, 300, 32)
    expected = orthogonal_matching_pursuit(targets, atoms, 8)
    monkeypatch.setattr(compiled, "AVAILABLE", False)
    monkeypatch.setattr(compiled, "UNUSABLE", "Numba cannot be imported (no such module)")
    for search in ("auto", "fast", "reference", "screened"):
        code = orthogonal_matching_pursuit(targets, atoms, 8, search=search)
        assert torch.equal(code.indices, expected.indices)
    message = (
        "search 'gram' cannot run here: Numba cannot be imported (no such module); write 'auto'"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        orthogonal_matching_pursuit(targets, atoms, 8, search="gram")


@pytest.mark.parametrize(
    ("without", "reason"),
    [
        ("import sys; sys.modules['numba'] = None", "import of numba halted"),
        ("import numba.core.caching as parts; del parts._Cache", "cannot import name '_Cache'"),
    ],
    ids=["not installed", "of a version with other inner parts"],
)
def test_numba_is_not_needed_to_import(without: str, reason: str) -> None:
    if without.startswith("import numba"):
        pytest.importorskip("numba", reason="Numba is not installed")
    program = (
        f"{without}\n"
        "import torch; from mergekit_omp.pursuit import orthogonal_matching_pursuit as omp\n"
        "print(omp(torch.eye(3), torch.eye(3), 1).indices.flatten().tolist())\n"
        "omp(torch.eye(3), torch.eye(3), 1, search='gram')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[0, 1, 2]", done.stderr
    assert f"Numba cannot be imported ({reason}" in done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("search", ["auto", "reference", "screened", "fast"])
def test_a_gpu_gives_the_same_supports(search: str) -> None:
    targets, atoms = dictionary(200, 5000, 256)
    expected = orthogonal_matching_pursuit(targets, atoms, 16, search="reference")
    code = orthogonal_matching_pursuit(targets.cuda(), atoms.cuda(), 16, search=search)
    assert code.indices.is_cuda
    assert torch.equal(code.indices.cpu(), expected.indices)
    torch.testing.assert_close(code.coefficients.cpu(), expected.coefficients, atol=1e-4, rtol=1e-4)
