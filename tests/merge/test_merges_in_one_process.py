"""Several merges in one process: planned together, run in any order, in threads, in memory."""

from __future__ import annotations

import gc
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit import multigpu_executor
from mergekit.architecture import get_architecture_info
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache
from mergekit.merge import _model_out_config, run_merge
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from merges import merge_here, swap
from merging import assert_same, record, tensors
from transformers import LlamaConfig, PreTrainedModel

from mergekit_omp.errors import TransplantError
from mergekit_omp.models.known_model import without_data
from mergekit_omp.transplant.inputs import MergeInputs
from mergekit_omp.transplant.merge import Merge
from mergekit_omp.transplant.planning import PlannedOutput, TransplantPlan
from mergekit_omp.transplant.row_plan import RowPlan
from mergekit_omp.vocabulary import Alignment, Vocabulary

QUIET = MergeOptions(quiet=True)
REDUCED = "k reduced from 400 to 48"


def planner(config: dict[str, Any]) -> MergePlanner:
    """What `run_merge` does up to the plan, and mergekit-evolve too."""
    parsed = MergeConfiguration.model_validate(config)
    architecture = get_architecture_info(parsed, QUIET)
    LoaderCache().setup(options=QUIET)
    return MergePlanner(parsed, architecture, QUIET, _model_out_config(parsed, architecture))


def run(tasks: list[Any], executor: type = Executor, **settings: Any) -> dict[str, torch.Tensor]:
    """Run a plan; what the tasks that return tensors gave, by the tensors' names."""
    return {
        task.weight_info.name: value
        for task, value in executor(tasks, **settings).run(quiet=True)
        if hasattr(task, "weight_info")
    }


def told(tasks: list[Any]) -> dict[str, Any]:
    """The record of a plan that has run, which `run_merge` saves in the end."""
    merge = tasks[-1].merge
    return json.loads(json.dumps(merge.output.shown.of(merge.record)))


def saved(out: Path) -> dict[str, Any]:
    """The record in an output directory, without its list of files."""
    return {key: value for key, value in record(out).items() if key != "files"}


def alive(*kinds: type) -> list[object]:
    gc.collect()
    return [found for found in gc.get_objects() if issubclass(type(found), kinds)]


@pytest.fixture(scope="module")
def alone(base: Path, donor: Path, tmp_path_factory: Any) -> dict[int, Path]:
    """By k, a swap that had the process to itself."""
    folder = tmp_path_factory.mktemp("alone")
    for k in (400, 8):
        done = merge_here(swap(base, donor, parameters={"k": k}), folder / str(k))
        assert done.status == 0, done.text
    return {k: folder / str(k) for k in (400, 8)}


@pytest.mark.parametrize("order", [(400, 8), (8, 400)], ids=str)
def test_two_merges_planned_together_have_nothing_in_common(
    order: tuple[int, int], alone: dict[int, Path], base: Path, donor: Path, tmp_path: Path
) -> None:
    plans = {
        k: planner(swap(base, donor, parameters={"k": k})).plan_to_disk(str(tmp_path / str(k)))
        for k in (400, 8)
    }
    for k in order:
        run(plans[k])
    for k in order:
        assert_same(tmp_path / str(k), alone[k])
        assert told(plans[k]) == saved(alone[k])
    assert any(REDUCED in warning for warning in told(plans[400])["warnings"])
    assert not any(REDUCED in warning for warning in told(plans[8])["warnings"])


def test_a_merge_that_fails_leaves_the_others_as_they_are(
    alone: dict[int, Path], base: Path, donor: Path, tmp_path: Path
) -> None:
    waiting = planner(swap(base, donor, parameters={"k": 8})).plan_to_disk(str(tmp_path / "8"))
    short = swap(base, donor, parameters={"k": 400, "memory": 1000})
    with pytest.raises(TransplantError, match="memory"):
        run_merge(MergeConfiguration.model_validate(short), str(tmp_path / "short"), QUIET)
    # mergekit's own merges come after, and tell nothing of a transplant.
    linear = {
        "merge_method": "linear",
        "models": [{"model": str(base), "parameters": {"weight": 1}}],
        "dtype": "float32",
    }
    run_merge(MergeConfiguration.model_validate(linear), str(tmp_path / "linear"), QUIET)
    assert "Tokenizer Transplant" not in (tmp_path / "linear" / "README.md").read_text()
    assert not (tmp_path / "linear" / "tokenizer_transplant.json").exists()
    run(waiting)
    assert told(waiting) == saved(alone[8])


def test_nothing_of_a_merge_outlives_it(base: Path, donor: Path, tmp_path: Path) -> None:
    kinds = (Merge, MergeInputs, PlannedOutput, TransplantPlan, RowPlan, Vocabulary, Alignment)
    before = len(alive(*kinds))
    config = swap(base, donor, "mean")
    run_merge(MergeConfiguration.model_validate(config), str(tmp_path / "out"), QUIET)
    short = swap(base, donor, parameters={"k": 400, "memory": 1000})
    with pytest.raises(TransplantError):
        run_merge(MergeConfiguration.model_validate(short), str(tmp_path / "short"), QUIET)
    # mergekit's cache keeps planners: see that they are there, and empty.
    assert alive(MergePlanner)
    in_memory = planner(config)
    tasks = in_memory.plan_in_memory()
    assert len(alive(*kinds)) > before
    del tasks
    assert len(alive(*kinds)) == before
    with pytest.raises(RuntimeError, match="make another"):
        in_memory.plan_in_memory()


def test_a_merge_in_memory_gives_what_one_to_disk_writes(
    alone: dict[int, Path], base: Path, donor: Path
) -> None:
    found = run(planner(swap(base, donor, parameters={"k": 8})).plan_in_memory())
    written = tensors(alone[8])
    assert found.keys() == written.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in written.items())


class OnTheCpu(multigpu_executor.MultiGPUExecutor):
    """mergekit's executor for several GPUs, its threads and shares of the graph on the CPU."""

    def __init__(self, targets: list[Any]):
        super().__init__(targets, num_gpus=2, storage_device=torch.device("cpu"))

    def _device_worker(
        self, task_list: Any, cached_values: Any, device: torch.device, quiet: bool
    ) -> None:
        graph = Executor(task_list, cached_values=cached_values)
        for handle, result in graph._run(quiet=quiet):
            self.task_completion_queue.put((handle._index, result))
        # mergekit stops listening once all workers are done, whatever is still in the queue.
        while not (self.task_completion_queue.empty() or self.done_event.is_set()):
            self.done_event.wait(0.01)


def test_shares_of_the_graph_in_threads_give_the_same(
    alone: dict[int, Path],
    base: Path,
    donor: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(multigpu_executor, "get_torch_accelerator_type", lambda: "cpu")
    tasks = planner(swap(base, donor, parameters={"k": 400})).plan_to_disk(str(tmp_path / "out"))
    run(tasks, OnTheCpu)
    assert_same(tmp_path / "out", alone[400])
    assert told(tasks) == saved(alone[400])


def test_models_without_data_in_threads_leave_torch_as_it_was() -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        architectures=["LlamaForCausalLM"],
    )
    functions = torch.nn.init.normal_, PreTrainedModel.init_weights
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            made = pool.map(lambda _: without_data(config, trust_remote_code=False), range(32))
            assert all(model.lm_head.weight.is_meta for model in made)
    finally:
        sys.setswitchinterval(interval)
    assert (torch.nn.init.normal_, PreTrainedModel.init_weights) == functions


def test_merges_in_two_threads_at_once(models: Any, tmp_path: Path) -> None:
    # Each with models of its own: mergekit's loaders are not made for two threads.
    def merge(k: int) -> Path:
        base = models(f"thread_{k}", "sentencepiece_bpe", seed=k, layers=1, hidden=16)
        donor = models(f"thread_donor_{k}", "byte_level", seed=k, hidden=48)
        config = MergeConfiguration.model_validate(swap(base, donor, parameters={"k": k}))
        out = tmp_path / str(k)
        run_merge(config, str(out), QUIET)
        return out

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(merge, (400, 7))
    assert any(REDUCED in warning for warning in record(first)["warnings"])
    assert not any(REDUCED in warning for warning in record(second)["warnings"])
    assert {t["parameters"]["k"] for t in record(second)["models"][0]["tensors"]} == {7}
    for out in (first, second):
        assert "Tokenizer Transplant" in (out / "README.md").read_text()
