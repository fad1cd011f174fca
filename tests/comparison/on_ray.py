"""`mergekit-omp compare --ray` on a Ray of two workers: the figures of one process, come what may.

Run by `make ray`: that every worker imports torch and transformers takes too long for the suite.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mergekit.options import MergeOptions
from merges import swap

from mergekit_omp.comparison.compare import Asked, compare
from mergekit_omp.comparison.on_ray import OnRay
from mergekit_omp.errors import TransplantError
from mergekit_omp.evaluation.evaluate import ReadingOptions
from mergekit_omp.evaluation.models import Loading

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

DOCUMENTS = [f"The {word} of the house: return {word}[{i}]." for i, word in enumerate("abcdef")]
ASKED = [Asked("mean", "mean", {}), Asked("knn k=4", "knn", {"k": 4})]
OF_THE_RUN = {"seconds", "peak_bytes"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two workers on this machine."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def run(content: dict[str, Any], **more: Any) -> dict[str, Any]:
    result = compare(
        content,
        "swap.yml",
        DOCUMENTS,
        ASKED,
        options=MergeOptions(quiet=True),
        loading=Loading("cpu"),
        reading=ReadingOptions(),
        **more,
    )
    for model in result["models"]:
        for key in OF_THE_RUN:
            model.pop(key)
    return result


def workers() -> list[psutil.Process]:
    """The processes that are at a task."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with_title = process.cmdline()
        if with_title and with_title[0].startswith("ray::_measured"):
            found.append(process)
    return found


def test_an_address_without_a_cluster_is_named(base: Path, donor: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    with pytest.raises(TransplantError, match=f"There is no Ray cluster at '127.0.0.1:{free}'"):
        run(swap(base, donor, "mean"), run=OnRay(f"127.0.0.1:{free}"))


def test_two_workers_find_what_one_process_finds_though_some_are_killed(
    base: Path, donor: Path, cluster: None
) -> None:
    content = swap(base, donor, "mean")
    killed: list[int] = []

    def kill(message: str) -> None:
        """When the first outcome is there, every worker that is at another one."""
        if message.startswith("1 of ") and not killed:
            for process in workers():
                killed.append(process.pid)
                os.kill(process.pid, signal.SIGKILL)

    found = run(content, run=OnRay("local"), tell=kill)
    assert killed, "no worker was at a task"
    assert found == run(content)
    assert ray.is_initialized(), "the user's own connection is left as it was"


def test_a_config_that_no_worker_can_merge(base: Path, donor: Path, cluster: None) -> None:
    """The same sentence as in one process."""
    content = swap(base, donor, "mean", dtype="int8")
    with pytest.raises(TransplantError) as here:
        run(content)
    with pytest.raises(TransplantError) as there:
        run(content, run=OnRay("local"))
    assert there.value.message == here.value.message
