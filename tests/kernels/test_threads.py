"""Work in threads, and what it leaves of other threads."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from mergekit_omp.kernels.threads import in_threads
from mergekit_omp.pursuit.bfloat16 import short_factors


@pytest.mark.parametrize(("count", "share"), [(0, None), (1, None), (37, None), (37, 4)])
def test_every_row_is_worked_on_once(count: int, share: int | None) -> None:
    seen: list[tuple[int, int]] = []
    told: list[int] = []
    in_threads(lambda first, last: seen.append((first, last)), count, share, told.append)
    assert sorted(row for first, last in seen for row in range(first, last)) == list(range(count))
    assert sum(told) == count


def test_an_error_is_passed_on() -> None:
    def work(first: int, last: int) -> None:
        raise ArithmeticError(f"{first} to {last}")

    with pytest.raises(ArithmeticError, match="0 to"):
        in_threads(work, 4)


def test_after_an_error_what_has_not_begun_never_does() -> None:
    begun: list[int] = []

    def work(first: int, last: int) -> None:
        begun.append(first)
        if first == 0:
            raise ArithmeticError
        over.wait(60)

    over = threading.Event()
    with pytest.raises(ArithmeticError):
        in_threads(work, 100, share=1)
    over.set()
    in_threads(lambda first, last: None, 4)
    assert len(begun) <= 1 + torch.get_num_threads()


def test_torch_has_one_thread_inside_and_all_of_them_elsewhere() -> None:
    before = torch.get_num_threads()
    inside: list[int] = []
    started, over = threading.Event(), threading.Event()

    def work(first: int, last: int) -> None:
        inside.append(torch.get_num_threads())
        started.set()
        over.wait(60)

    outside: list[int] = []
    working = threading.Thread(target=in_threads, args=(work, 4))
    first_use = threading.Thread(target=lambda: outside.append(torch.get_num_threads()))
    working.start()
    assert started.wait(60)
    first_use.start()
    first_use.join()
    over.set()
    working.join()
    assert set(inside) == {1}
    assert [*outside, torch.get_num_threads()] == [before, before]


def test_torch_is_as_precise_as_before_when_two_threads_have_asked_for_less() -> None:
    rows = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    expected = rows @ rows.T
    inside, both, left = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with short_factors(True):
            inside.set()
            both.wait(0.2)
        left.set()

    def second() -> None:
        assert inside.wait(60)
        with short_factors(True):
            both.set()
            assert left.wait(60)

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(rows @ rows.T, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_has_threads_too() -> None:
    in_threads(lambda first, last: None, 4)
    child = os.fork()
    if not child:
        in_threads(lambda first, last: None, 4)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
