"""Over-encoded models in the tools that train: Trainer, PEFT, checkpointing, saving, resizing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_models import VOCABULARY, some_ids, tiny, tiny_grown
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import mergekit_omp.growth  # noqa: F401  what a user writes: the classes are known from here on


def loss_of(model: Any, ids: torch.Tensor) -> Any:
    return model(input_ids=ids, labels=ids).loss


@pytest.fixture
def model() -> Any:
    return tiny_grown("LlamaForCausalLM")


def train(model: Any, folder: Path, optimizers: Any = (None, None), **settings: Any) -> Trainer:
    rows = [{"input_ids": row.tolist(), "labels": row.tolist()} for row in some_ids(8, 12)]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=0.02,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        optimizers=optimizers,
        eval_dataset=Dataset.from_list(rows),
    )
    trainer.train()
    return trainer


def test_trainer_trains_tables_and_saves_a_model_that_loads(model: Any, tmp_path: Path) -> None:
    ids = some_ids(8, 12)
    before, table = loss_of(model, ids), model.over_encoding.tables[1].weight.clone()
    optimizer = torch.optim.AdamW(model.parameter_groups(weight_decay=0.1), lr=0.02)
    trainer = train(model, tmp_path / "run", (optimizer, None), eval_strategy="steps", eval_steps=2)
    assert loss_of(model.eval(), ids) < before
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert losses[1] < losses[0]
    assert not torch.equal(model.over_encoding.tables[1].weight, table)
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "over_encoding.py").is_file()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    assert type(again) is type(model)
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_shards_hold_the_tables_too(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    names = [set(load_file(file)) for file in tmp_path.glob("*.safetensors")]
    assert len(names) > 2
    assert "over_encoding.tables.1.weight" in set().union(*names)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(some_ids(1, 9)).logits, model(some_ids(1, 9)).logits)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(model: Any, reentrant: bool) -> None:
    ids = some_ids(2, 10)
    model.train()
    loss_of(model, ids).backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    loss_of(model, ids).backward()
    assert any(name.startswith("over_encoding") for name in plain)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, plain[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("targets", "saved"),
    [
        (["q_proj", "embed_tokens"], ["over_encoding"]),
        (["q_proj"], ["over_encoding", "embed_tokens", "lm_head"]),
    ],
)
def test_peft_trains_tables_beside_adapters(
    targets: list[str], saved: list[str], tmp_path: Path
) -> None:
    tiny_grown("LlamaForCausalLM").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(target_modules=targets, modules_to_save=saved))
    model.enable_input_require_grads()
    ids = some_ids(8, 12)
    before = loss_of(model, ids)
    train(model, tmp_path / "run", gradient_checkpointing=True)
    model.eval()
    assert loss_of(model, ids) < before
    prompt = some_ids(1, 5)
    texts = [
        model.generate(input_ids=prompt, max_new_tokens=6, do_sample=False, use_cache=use)
        for use in (True, False)
    ]
    assert torch.equal(*texts)
    model.save_pretrained(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    again = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.allclose(again(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)
    merged = again.merge_and_unload()
    assert torch.allclose(merged(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
def test_a_resize_moves_no_ngram(name: str) -> None:
    model, ids = tiny_grown(name), some_ids(2, 9)
    before = model(ids).logits
    model.resize_token_embeddings(VOCABULARY + 7)
    assert torch.allclose(model(ids).logits[..., :VOCABULARY], before, atol=1e-5)
    assert model.get_input_embeddings().weight.shape[0] == VOCABULARY + 7
    with pytest.raises(RuntimeError, match="as a whole"):
        model.get_input_embeddings()(ids)
    # New ids have n-grams as well.
    new = torch.cat([ids, torch.full((2, 1), VOCABULARY + 3)], 1)
    assert model(new).logits.isfinite().all()


def test_tables_are_not_decayed(model: Any) -> None:
    decayed, kept = model.parameter_groups(0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    held = {id(p) for p in kept["params"]}
    for name, parameter in model.named_parameters():
        expected = parameter.ndim < 2 or ".tables." in name
        assert (id(parameter) in held) == expected, name
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


def test_zero_tables_learn_and_the_start_is_the_models_own() -> None:
    """What `grow` writes: zero tables and random projections."""
    plain = tiny("Olmo2ForCausalLM")
    model = tiny_grown("Olmo2ForCausalLM")
    for table in model.over_encoding.tables:
        torch.nn.init.zeros_(table.weight)
    assert model.load_state_dict(plain.state_dict(), strict=False).unexpected_keys == []
    ids = some_ids(2, 9)
    assert torch.equal(model(ids).logits, plain(ids).logits)
    loss_of(model, ids).backward()
    for table, projection in zip(
        model.over_encoding.tables, model.over_encoding.projections, strict=True
    ):
        assert table.weight.grad.any()
        assert projection.weight.any()
