"""What mergekit offers beside its methods works with an approximation in front, as without."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from merges import mergekit_yaml, swap, write_config
from merging import assert_same, record, tensors
from safetensors.torch import load_file, save_file
from small_models import load, save_model

K = {"k": 4}


@pytest.fixture(scope="module")
def deep_family(models: Any) -> list[Path]:
    return [
        models(f"sp_{seed}", "sentencepiece_bpe", seed=seed, layers=2, hidden=16)
        for seed in (0, 5, 6)
    ]


def ties(paths: list[Path], method: str, **more: Any) -> dict[str, Any]:
    parameters = {"weight": 0.5, "density": 0.6}
    return {
        "merge_method": method,
        "base_model": str(paths[0]),
        "models": [{"model": str(path), "parameters": parameters} for path in paths[1:]],
        "dtype": "float32",
        **more,
    }


@pytest.fixture
def swap_all(narrow_donor: Path, merge: Any) -> Any:
    return lambda paths: [
        merge(swap(path, narrow_donor, parameters=K), f"swapped_{i}")
        for i, path in enumerate(paths)
    ]


def test_slices(deep_family: list[Path], narrow_donor: Path, merge: Any, swap_all: Any) -> None:
    def config(paths: list[Path], method: str, **more: Any) -> dict[str, Any]:
        return {
            "merge_method": method,
            "slices": [
                {"sources": [{"model": str(paths[0]), "layer_range": [0, 2]}]},
                {"sources": [{"model": str(paths[1]), "layer_range": [1, 2]}]},
            ],
            "dtype": "float32",
            **more,
        }

    ours = merge(config(deep_family, "omp", tokenizer_source=str(narrow_donor), parameters=K))
    assert_same(ours, merge(config(swap_all(deep_family[:2]), "passthrough"), "plain"))
    model, _ = load(ours)
    assert model.config.num_hidden_layers == 3
    by_model = {m["model"]: [e["part"] for e in m["tensors"]] for m in record(ours)["models"]}
    assert by_model == {deep_family[0].name: ["input"], deep_family[1].name: ["head"]}


def test_modules(deep_family: list[Path], narrow_donor: Path, merge: Any) -> None:
    ours = ties(deep_family, "omp+ties", tokenizer_source=str(narrow_donor), parameters=K)
    by_module = {**ours, "modules": {"default": {"models": ours["models"]}}}
    del by_module["models"]
    assert_same(merge(by_module, "modules"), merge(ours))


def test_gradients_and_filters(
    deep_family: list[Path], narrow_donor: Path, merge: Any, swap_all: Any
) -> None:
    t = [
        {"filter": "self_attn", "value": [0, 0.3]},
        {"filter": "lm_head", "value": 0.9},
        {"value": [0.2, 0.7]},
    ]

    def config(paths: list[Path], method: str, **more: Any) -> dict[str, Any]:
        return {
            "merge_method": method,
            "base_model": str(paths[0]),
            "models": [{"model": str(path)} for path in paths],
            "dtype": "float32",
            **more,
        }

    ours = config(
        deep_family[:2], "omp+slerp", tokenizer_source=str(narrow_donor), parameters={"t": t, **K}
    )
    theirs = config(swap_all(deep_family[:2]), "slerp", parameters={"t": t})
    assert_same(merge(ours), merge(theirs, "plain"))


def test_dtype_and_out_dtype(deep_family: list[Path], narrow_donor: Path, merge: Any) -> None:
    config = ties(deep_family, "omp+ties", tokenizer_source=str(narrow_donor), parameters=K)
    exact = tensors(merge(config, "exact"))
    out = merge({**config, "out_dtype": "bfloat16"}, "rounded")
    for name, tensor in tensors(out).items():
        assert torch.equal(tensor, exact[name].bfloat16()), name
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    alone = tensors(merge(swap(deep_family[0], narrow_donor, parameters=K), "alone"))
    half = merge(swap(deep_family[0], narrow_donor, parameters=K, dtype="float16"), "half")
    for name, tensor in tensors(half).items():
        assert tensor.dtype == torch.float16
        torch.testing.assert_close(tensor.float(), alone[name], rtol=0.01, atol=0.01)


def test_chat_template(deep_family: list[Path], narrow_donor: Path, merge: Any) -> None:
    config = swap(deep_family[0], narrow_donor, "zero")
    plain = transformers.AutoTokenizer.from_pretrained(merge(config, "plain"))
    assert plain.chat_template is None
    out = merge({**config, "chat_template": "chatml"}, "chatml")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    chat = [{"role": "user", "content": "the value"}]
    assert "<|im_start|>user" in tokenizer.apply_chat_template(chat, tokenize=False)


def test_a_lora_reference(
    deep_family: list[Path], narrow_donor: Path, tmp_path: Path, merge: Any, models: Any
) -> None:
    import peft

    model, tokenizer = load(deep_family[1])
    torch.manual_seed(0)
    settings = peft.LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], init_lora_weights=False
    )
    adapted = peft.get_peft_model(model, settings)
    adapted.save_pretrained(tmp_path / "lora")
    merged = tmp_path / "merged"
    adapted.merge_and_unload().save_pretrained(merged)
    tokenizer.save_pretrained(merged)

    def config(second: str) -> dict[str, Any]:
        found = ties(deep_family[:2], "omp+ties", tokenizer_source=str(narrow_donor), parameters=K)
        found["models"][0]["model"] = second
        return found

    reference = f"{deep_family[1]}+{tmp_path / 'lora'}"
    cache = ("--lora-merge-cache", str(tmp_path / "cache"))
    assert_same(
        merge(config(reference), "adapted", *cache), merge(config(str(merged)), "merged_out")
    )
    # A swap of the adapted model itself, too.
    alone = merge(swap(reference, narrow_donor, parameters=K), "alone", *cache)  # type: ignore[arg-type]
    assert_same(alone, merge(swap(merged, narrow_donor, parameters=K), "alone_merged"))


def test_sharded_inputs_and_outputs(
    deep_family: list[Path], narrow_donor: Path, models: Any, merge: Any
) -> None:
    whole = merge(swap(deep_family[0], narrow_donor, parameters=K))
    sharded = models(
        "sharded", "sentencepiece_bpe", seed=0, layers=2, hidden=16, shard_size="100KB"
    )
    of_donor = models(
        "donor_sharded", "byte_level", hidden=16, layers=1, seed=1, shard_size="100KB"
    )
    assert len(list(sharded.glob("*.safetensors"))) > 2
    out = merge(swap(sharded, of_donor, parameters=K), "sharded", "--out-shard-size", "100K")
    assert len(list(out.glob("*.safetensors"))) > 2
    assert_same(out, whole)
    load(out)


@pytest.mark.parametrize("options", [(), ("--lazy-unpickle",)], ids=["pickle", "lazy-unpickle"])
def test_bin_inputs(
    options: tuple[str, ...],
    deep_family: list[Path],
    narrow_donor: Path,
    tmp_path: Path,
    merge: Any,
) -> None:
    pickled = []
    for i, path in enumerate((deep_family[0], narrow_donor)):
        model, tokenizer = load(path)
        to = tmp_path / f"bin_{i}"
        tokenizer.save_pretrained(to)
        model.config.save_pretrained(to)
        torch.save(model.state_dict(), to / "pytorch_model.bin")
        pickled.append(to)
    out = merge(swap(pickled[0], pickled[1], parameters=K), "from_bin", *options)
    assert_same(out, merge(swap(deep_family[0], narrow_donor, parameters=K)))


@pytest.mark.parametrize(
    "options",
    [
        ("--low-cpu-memory",),
        ("--read-to-gpu",),
        ("--clone-tensors",),
        ("--async-write", "--write-threads", "2"),
    ],
    ids=lambda options: options[0].strip("-"),
)
def test_options_leave_the_tensors_alone(
    options: tuple[str, ...], deep_family: list[Path], narrow_donor: Path, merge: Any
) -> None:
    config = ties(deep_family, "omp+ties", tokenizer_source=str(narrow_donor), parameters=K)
    assert_same(merge(config, "with", *options), merge(config, "without"))


def test_a_multi_gpu_plan_runs_every_task_once_and_gives_the_same_tensors(
    deep_family: list[Path],
    narrow_donor: Path,
    merge: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plan for two devices, whose workers here are the CPU's."""
    from mergekit import merge as merging_of_mergekit
    from mergekit import multigpu_executor
    from mergekit.graph import Executor

    from mergekit_omp.plugin import preflight

    made = []

    class OnTheCpu(multigpu_executor.MultiGPUExecutor):
        def __init__(self, targets: Any, storage_device: Any = None) -> None:
            super().__init__(targets, num_gpus=2, storage_device=storage_device)
            made.append(self)

        def _device_worker(
            self, task_list: Any, cached_values: Any, device: Any, quiet: bool
        ) -> None:
            run = Executor(
                targets=task_list,
                math_device="cpu",
                storage_device="cpu",
                cached_values=cached_values,
            )
            for handle, result in run._run(quiet=quiet):
                kept = handle in self.targets or handle in self.trailing_dependencies
                self.task_completion_queue.put((handle._index, result if kept else None))

    config = ties(deep_family, "omp+ties", tokenizer_source=str(narrow_donor), parameters=K)
    one = merge(config, "one")
    monkeypatch.setattr(multigpu_executor, "get_torch_accelerator_type", lambda: "cuda")
    monkeypatch.setattr(preflight, "has_accelerator", lambda: True)
    monkeypatch.setattr(merging_of_mergekit, "MultiGPUExecutor", OnTheCpu)
    two = merge(config, "two", "--multi-gpu")
    (executor,) = made
    parts = [{task._index for task in part} for part in executor.gpu_assignments.values()]
    assert len(parts) == 2
    assert not parts[0] & parts[1]
    assert_same(two, one)
    assert record(two) == record(one)


def test_the_same_bytes_whatever_the_hash_seed_and_the_number_of_writers(
    deep_family: list[Path], narrow_donor: Path, models: Any, tmp_path: Path
) -> None:
    other = models("words", "wordpiece", hidden=16, layers=2, seed=4)
    config = write_config(
        tmp_path / "config.yml",
        {
            "merge_method": "omp+linear",
            "models": [
                {"model": str(path), "parameters": {"weight": 0.5}}
                for path in (deep_family[0], other, deep_family[1])
            ],
            "tokenizer_source": "union",
            "parameters": K,
            "dtype": "float32",
        },
    )
    found = []
    for seed, threads in (("1", "1"), ("2", "2")):
        out = tmp_path / "out"
        ran = mergekit_yaml(
            config, out, "--async-write", "--write-threads", threads, PYTHONHASHSEED=seed
        )
        assert ran.status == 0, ran.text
        found.append(
            {
                file.name: hashlib.sha256(file.read_bytes()).hexdigest()
                for file in sorted(out.iterdir())
            }
        )
        out.rename(tmp_path / f"out_{seed}")
    assert found[0] == found[1]


def test_a_transposed_head(
    narrow_donor: Path,
    tmp_path: Path,
    real_tokenizer: Any,
    merge: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An architecture whose head has its vocabulary along the second axis."""
    from mergekit.architecture import json_definitions
    from mergekit.architecture.json_definitions import _load_architecture_json

    base = save_model(tmp_path / "base", real_tokenizer("sentencepiece_bpe"), hidden=16, layers=1)
    straight = merge(swap(base, narrow_donor, parameters=K), "straight")
    folder = Path(json_definitions.mergekit._data.architectures.__file__).parent
    definition = json.loads((folder / "llama.json").read_text())
    for weight in definition["post_weights"]:
        if weight["name"] == "lm_head.weight":
            weight.update(name="head_t", vocabulary_axis=1, optional=False)
            del weight["tied_names"]
    turned = []
    for i, path in enumerate((base, narrow_donor)):
        turned.append(shutil.copytree(path, tmp_path / f"turned_{i}"))
        held = load_file(path / "model.safetensors")
        held["head_t"] = held.pop("lm_head.weight").T.contiguous()
        save_file(held, turned[i] / "model.safetensors", metadata={"format": "pt"})
    transposed = _load_architecture_json(json.dumps(definition))
    monkeypatch.setitem(json_definitions.NAME_TO_ARCH, "LlamaForCausalLM", [transposed])
    out = tensors(merge(swap(*turned, parameters=K), "transposed"))
    expected = tensors(straight)
    torch.testing.assert_close(out["head_t"], expected["lm_head.weight"].T, rtol=1e-4, atol=1e-5)
    assert torch.equal(out["model.embed_tokens.weight"], expected["model.embed_tokens.weight"])
