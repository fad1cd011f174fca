"""The missing rows of one tensor, spread over several devices by mergekit's own executor."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit import merge as mergekits
from mergekit import multigpu_executor
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor, Task
from mergekit.options import MergeOptions
from merges import swap

from mergekit_omp.plugin import multi_gpu, preflight
from mergekit_omp.plugin.planners import make_planner
from mergekit_omp.pursuit import choice, cuts
from mergekit_omp.transplant.blocks import (
    ApproximateBlock,
    Devices,
    JoinedCode,
    JoinedRows,
    VocabularyOfBlocks,
)
from mergekit_omp.transplant.row_plan import EncodeMissing

QUIET = MergeOptions(quiet=True)
BLOCK = 64
"""In the place of thousands of tokens, which small tokenizers do not lack."""


class Told(multigpu_executor.MultiGPUExecutor):
    """mergekit's executor, which tells which thread worked for which device."""

    runs: list[Told] = []  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.threads: dict[torch.device, int] = {}
        self.runs.append(self)

    def _device_worker(self, task_list: Any, cached_values: Any, device: Any, quiet: bool) -> None:
        self.threads[device] = threading.get_ident()
        super()._device_worker(task_list, cached_values, device, quiet)

    def tasks(self, kind: type) -> list[Any]:
        return [task for task in self.universe.tasks if isinstance(task, kind)]

    def device_of(self, task: Any) -> torch.device:
        handle = self.universe.get_handle(task)
        (found,) = [device for device, own in self.gpu_assignments.items() if handle in own]
        return found


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "BLOCK", BLOCK)
    monkeypatch.setattr("mergekit_omp.pursuit.solve.BLOCK", BLOCK)
    monkeypatch.setattr("mergekit_omp.transplant.blocks.BLOCK", BLOCK)
    monkeypatch.setattr(choice, "LARGEST_BATCH", 64)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`devices(count)`: mergekit and the plugin find so many devices. All are the CPU: what is put
    in the place of torch's are its count and kind of accelerators, and CUDA's streams."""

    def found(count: int) -> list[Told]:
        monkeypatch.setattr(preflight, "has_accelerator", lambda: True)
        several = Devices(count, "cpu") if count > 1 else None
        monkeypatch.setattr(multi_gpu, "accelerators", lambda: several)
        monkeypatch.setattr(multigpu_executor, "get_torch_accelerator_type", lambda: "cpu")
        monkeypatch.setattr(multigpu_executor, "get_torch_accelerator_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(mergekits, "MultiGPUExecutor", Told)
        Told.runs = []
        return Told.runs

    return found


def files(out: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(out.iterdir())
    }


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Task, int]]:
    """Which codings and blocks were worked on so far, and in which thread."""
    found: list[tuple[Task, int]] = []
    for kind in (EncodeMissing, ApproximateBlock):
        original: Callable[..., Any] = kind.execute

        def execute(self: Any, *, original: Any = original, **given: Any) -> Any:
            found.append((self, threading.get_ident()))
            return original(self, **given)

        monkeypatch.setattr(kind, "execute", execute)
    return found


def blocks_of(run: Told, worked: list[tuple[Task, int]]) -> list[int]:
    """How many blocks each tensor, or code that tensors share, had; each was worked on once, for a
    device that no other block of the tensor had, in the device's thread."""
    sizes = []
    for joined in [*run.tasks(JoinedCode), *run.tasks(JoinedRows)]:
        devices = [run.device_of(block) for block in joined.blocks]
        assert len(set(devices)) == len(devices)
        for block, device in zip(joined.blocks, devices, strict=True):
            assert [at for task, at in worked if task is block] == [run.threads[device]]
        sizes.append(len(devices))
    assert threading.get_ident() not in run.threads.values()
    return sizes


@pytest.mark.parametrize(
    ("method", "count", "each"), [("omp", 2, 2), ("wechsel", 3, 3), ("kriging", 5, 2)]
)
def test_a_tensor_is_spread_over_devices_and_the_files_stay_the_same(
    method: str,
    count: int,
    each: int,
    base: Path,
    donor: Path,
    merge: Any,
    devices: Any,
    worked: Any,
    tmp_path: Path,
) -> None:
    config = swap(base, donor, method)
    # The card has the directory's name.
    one = merge(config).rename(tmp_path / "one")
    runs = devices(count)
    worked.clear()
    two = merge(config, "out", "--multi-gpu")
    (run,) = runs
    assert blocks_of(run, worked) == [each, each], "of the input embedding and of the head"
    assert files(two) == files(one)


def several(family: list[Path], donor: Path, method: str, **more: Any) -> dict[str, Any]:
    return {
        "merge_method": method,
        "base_model": str(family[0]),
        "models": [
            {"model": str(path), "parameters": {"weight": 0.5, **more}} for path in family[1:]
        ],
        "tokenizer_source": str(donor),
        "dtype": "bfloat16",
    }


def test_models_that_share_a_code_share_its_blocks(
    family: list[Path], merge: Any, devices: Any, worked: Any, models: Any, tmp_path: Path
) -> None:
    donor = models("bytes_bias", "byte_level", hidden=48, seed=1)
    config = several(family, donor, "omp+ties", density=0.6)
    one = merge(config).rename(tmp_path / "one")
    runs = devices(2)
    worked.clear()
    two = merge(config, "out", "--multi-gpu")
    assert blocks_of(runs[0], worked) == [2, 2]
    assert files(two) == files(one)


def test_every_model_has_blocks_of_its_own_rows(
    family: list[Path], donor: Path, merge: Any, devices: Any, worked: Any, tmp_path: Path
) -> None:
    config = several(family[:2], donor, "kriging+linear")
    config["models"].append({"model": str(family[0]), "parameters": {"weight": 0.3}})
    config["parameters"] = {"rescale_norms": True}
    one = merge(config).rename(tmp_path / "one")
    runs = devices(8)
    two = merge(config, "out", "--multi-gpu", "--low-cpu-memory")
    assert blocks_of(runs[0], worked) == [2, 2, 2, 2]
    assert files(two) == files(one)


def test_unions_and_tied_models(
    donor: Path, merge: Any, devices: Any, worked: Any, models: Any, tmp_path: Path
) -> None:
    tied = models("tied", "sentencepiece_bpe", hidden=48, layers=1, tied=True, seed=3)
    other = models("plain", "byte_level", hidden=48, layers=1, tied=True, seed=4)
    config = {**several([tied, tied, other], donor, "knn+linear"), "tokenizer_source": "union"}
    one = merge(config).rename(tmp_path / "one")
    runs = devices(2)
    worked.clear()
    two = merge(config, "out", "--multi-gpu")
    assert all(size == 2 for size in blocks_of(runs[0], worked))
    assert runs[0].tasks(JoinedCode)
    assert files(two) == files(one)


def test_a_tied_model_has_all_devices_for_its_matrix(
    donor: Path, merge: Any, devices: Any, worked: Any, models: Any, tmp_path: Path
) -> None:
    tied = models("tied", "sentencepiece_bpe", hidden=48, layers=1, tied=True, seed=3)
    one = merge(swap(tied, donor, "kriging")).rename(tmp_path / "one")
    runs = devices(3)
    worked.clear()
    two = merge(swap(tied, donor, "kriging"), "out", "--multi-gpu")
    assert blocks_of(runs[0], worked) == [3]
    assert files(two) == files(one)


def test_a_merge_in_memory_is_spread_too(base: Path, donor: Path, devices: Any) -> None:
    def planned(options: MergeOptions) -> list[Any]:
        config = MergeConfiguration.model_validate(swap(base, donor, "kriging"))
        return make_planner(config, options).plan_in_memory()

    one = {t.weight_info.name: found for t, found in Executor(planned(QUIET)).run(quiet=True)}
    devices(4)
    run = Told(planned(MergeOptions(quiet=True, multi_gpu=True)), storage_device="cpu")
    two = {t.weight_info.name: found for t, found in run.run(quiet=True)}
    assert run.tasks(JoinedRows)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], found) for name, found in two.items())


def test_one_device_and_methods_without_blocks_keep_the_plan(
    base: Path, donor: Path, merge: Any, devices: Any
) -> None:
    runs = devices(1)
    merge(swap(base, donor, "omp"), "one", "--multi-gpu")
    runs = devices(2)
    merge(swap(base, donor, "subword"), "two", "--multi-gpu")
    merge(swap(base, donor, "mean"), "three", "--multi-gpu")
    assert len(runs) == 2
    assert not any(run.tasks(VocabularyOfBlocks) for run in runs)
    assert multi_gpu.devices_of(QUIET) is None
