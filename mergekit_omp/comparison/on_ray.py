"""Measures candidates as tasks of a Ray cluster, or of one that is started on this machine.

A worker merges the body for its first candidate and keeps it for those that follow. A task whose
worker dies is run again by Ray; what other tasks have found is kept by Ray in the meantime.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mergekit_omp.comparison.body import size_in_memory
from mergekit_omp.comparison.candidates import Candidate, LeftOut
from mergekit_omp.comparison.compare import check_some
from mergekit_omp.comparison.measuring import Bench, Conditions, Measured
from mergekit_omp.errors import TransplantError
from mergekit_omp.models.configs import read_config
from mergekit_omp.outside.faults import of_library, reason
from mergekit_omp.transplant.config import models_in_order

LOCAL = "local"
"""The address that stands for a cluster of this machine's own."""
_BASE = "the base with its own tokenizer"
_SECONDS_TO_ANSWER = 10
RETRIES = 3
"""How often a task is run again where its worker dies."""


def require_ray() -> None:
    """TransplantError, naming the extra to install, where Ray is missing."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise TransplantError(
            "--ray needs Ray, which is not installed. Install it here and on every machine of the "
            "cluster with: pip install 'mergekit-omp[ray]'."
        ) from error


@dataclass(frozen=True)
class OnRay:
    """A `Runner` on the cluster at an address; `LOCAL` starts one on this machine for the while."""

    address: str

    def __call__(
        self, conditions: Conditions, candidates: Sequence[Candidate], tell: Callable[[str], None]
    ) -> tuple[Measured, list[Measured | LeftOut]]:
        import ray

        quiet = replace(
            conditions,
            options=conditions.options.model_copy(update={"quiet": True}),
            reading=replace(conditions.reading, progress=False),
        )
        with _cluster(self.address):
            resources = _resources(conditions, candidates)
            tell(_told(resources))
            task = ray.remote(max_retries=RETRIES, **resources)(_measured)
            place = ray.put(_Place(quiet, os.getcwd(), os.urandom(8).hex()))
            # The base comes first: it would take the body's place in a worker that has one.
            waiting = {task.remote(place, candidates[0], True): _BASE}
            waiting |= {task.remote(place, one, False): one.name for one in candidates}
            found: dict[str, Measured | LeftOut] = {}
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                name = waiting.pop(done)
                found[name] = _outcome(done, name)
                tell(f"{len(found)} of {len(found) + len(waiting)}: {name}")
        outcomes = [found[candidate.name] for candidate in candidates]
        check_some(outcomes)
        base = found[_BASE]
        if isinstance(base, LeftOut):
            raise TransplantError(base.reason)
        return base, outcomes


@dataclass(frozen=True)
class _Place:
    """What every task of one comparison is given."""

    conditions: Conditions
    folder: str
    """Where relative paths of the config begin."""
    comparison: str
    """A name of its own for each comparison."""


_benches: dict[str, Bench] = {}
"""In a worker: the bench of the comparison that it works for."""


def _measured(place: _Place, candidate: Candidate, is_base: bool) -> Measured | LeftOut:
    """Runs in a worker."""
    import mergekit.plan  # noqa: F401 (the plugin activates when this is imported)

    if os.path.isdir(place.folder):
        os.chdir(place.folder)
    if place.comparison not in _benches:
        # A worker of a cluster outlives comparisons; their bodies must not.
        _benches.clear()
        _benches[place.comparison] = Bench(place.conditions)
    bench = _benches[place.comparison]
    if not is_base:
        return bench.measure(candidate)
    try:
        return bench.measure_base(candidate)
    except TransplantError as error:
        return LeftOut(candidate.name, error.message)


def _outcome(done: Any, name: str) -> Measured | LeftOut:
    from ray.exceptions import RayTaskError, WorkerCrashedError

    try:
        import ray

        found: Measured | LeftOut = ray.get(done)
    except RayTaskError:
        # A fault of the task itself: it stays a traceback, the worker's.
        raise
    except WorkerCrashedError as error:
        return LeftOut(
            name,
            f"Its worker died {RETRIES + 1} times ({reason(error)}). Give the machines of the "
            "cluster more memory, or let fewer workers share one.",
        )
    return found


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Connected to the cluster; one that is connected to already is used and left as it is."""
    import ray

    if ray.is_initialized():
        yield
        return
    local = {"include_dashboard": False} if address == LOCAL else {}
    with of_library(
        f"There is no Ray cluster at {address!r}",
        "Start one with `ray start --head`, or write --ray alone for one on this machine.",
    ):
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT, for which Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()


def _resources(conditions: Conditions, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """What each task asks for: its share of the processors, memory for the body, a GPU if any."""
    import ray

    config = candidates[0].config
    options = conditions.options
    base = config.base_model or models_in_order(config)[0]
    held = read_config(base, trust_remote_code=options.trust_remote_code)
    needed = size_in_memory(held, conditions.loading)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max(node.get("memory", 0) for node in nodes)
    if needed > most:
        raise TransplantError(
            f"The model takes {needed / 1e9:.1f} GB of memory, and the largest machine of the Ray "
            f"cluster offers {most / 1e9:.1f} GB. Add a larger one, or write --dtype bfloat16."
        )
    total = sum(node.get("CPU", 0) for node in nodes)
    widest = max(node.get("CPU", 0) for node in nodes)
    share = max(1, min(int(total) // (len(candidates) + 1), int(widest)))
    has_gpu = any(node.get("GPU", 0) >= 1 for node in nodes)
    return {"num_cpus": share, "memory": needed, "num_gpus": 1 if has_gpu else 0}


def _told(resources: dict[str, Any]) -> str:
    said = f"Ray: each task has {resources['num_cpus']} processor core(s)"
    return f"{said} and {'a GPU' if resources['num_gpus'] else 'no GPU'}."
