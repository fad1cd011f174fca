"""Heads for the tokens after the next: nothing changes, then they learn, then they draft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from readers import OlderTransformers
from safetensors.torch import load_file
from tiny_models import VOCABULARY, some_ids, tiny, tiny_grown
from torch.nn import functional
from transformers import AutoModelForCausalLM

from mergekit_omp.cli import main

HEADS = {"heads": 2, "weight": 0.1, "bias": False}
PATTERN = torch.tensor([[5, 9, 13, 21, 34, 8, 40, 17] * 4])


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Gemma2ForCausalLM"])
def test_heads_are_copies_and_generation_is_as_before(name: str, tmp_path: Path) -> None:
    tiny(name).save_pretrained(tmp_path / "model")
    words = ["grow", str(tmp_path / "model"), str(tmp_path / "out"), "--over-decoding", "2"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "predict nothing yet" in result.output
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = some_ids(1, 7)
    assert torch.equal(after(ids).logits, before(ids).logits)
    for further in after.over_decoding.heads:
        assert torch.equal(further.head.weight, before.get_output_embeddings().weight)
        assert not further.outer.weight.any() and further.inner.weight.any()
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    text = before.generate(ids, **settings)
    assert torch.equal(after.generate(ids, **settings), text)
    assert torch.equal(after.generate(ids, self_speculation=True, **settings), text)
    stored = [set(load_file(file)) for file in (tmp_path / "out").glob("*.safetensors")]
    assert "over_decoding.heads.1.head.weight" in set().union(*stored)


def test_an_older_transformers_reads_heads(
    models: Any, tmp_path: Path, older: OlderTransformers
) -> None:
    source = models("heads", "byte_level", hidden=16, layers=1)
    words = ["grow", str(source), str(tmp_path / "out"), "--over-decoding", "2"]
    assert CliRunner().invoke(main, words).exit_code == 0
    file = tmp_path / "out" / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    file.write_text(json.dumps(settings))
    ids = list(range(9))
    theirs = older.read(tmp_path / "out", ["x"], trust=True, ids=ids)
    assert not theirs["problems"]
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(source).eval()(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(torch.tensor(theirs["logits"]), ours, rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_papers() -> None:
    """The next token's, and a tenth of that of each token after it, where there is one."""
    model, ids = tiny_grown("LlamaForCausalLM", heads=HEADS), some_ids(2, 9)
    labels = ids.clone()
    labels[0, 4] = -100
    found = model(ids, labels=labels, output_hidden_states=True)
    expected = torch.tensor(0.0)
    logits = [found.logits, *model.over_decoding(found.hidden_states[-1])]
    for ahead, each in enumerate(logits, 1):
        loss = functional.cross_entropy(each[:, :-ahead].flatten(0, 1), labels[:, ahead:].flatten())
        expected = expected + (1.0 if ahead == 1 else 0.1) * loss
    assert torch.allclose(found.loss, expected)
    assert model(ids, labels=labels).hidden_states is None
    assert torch.allclose(model(ids, labels=labels, return_dict=False)[0], expected)


@pytest.fixture(scope="module")
def trained() -> Any:
    """A model that has learned a text by heart, and its heads with it."""
    model = tiny_grown("LlamaForCausalLM", heads=HEADS).train()
    optimizer = torch.optim.AdamW(model.parameter_groups(0.0), lr=0.01)
    for _ in range(80):
        model(PATTERN, labels=PATTERN).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("more", [{}, {"repetition_penalty": 1.3}, {"eos_token_id": 21}])
def test_trained_heads_draft_greedys_text_in_fewer_passes(trained: Any, more: Any) -> None:
    settings = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0, **more}
    passes: list[int] = []
    hook = trained.get_output_embeddings().register_forward_hook(lambda *_: passes.append(1))
    prompt = PATTERN[:, :5]
    greedy = trained.generate(prompt, **settings)
    alone, passes[:] = len(passes), []
    drafted = trained.generate(prompt, self_speculation=True, **settings)
    hook.remove()
    assert torch.equal(drafted, greedy)
    if more != {"repetition_penalty": 1.3}:
        # Two drafts to a pass: a third of the passes where all are right.
        assert len(passes) <= alone / 2


def test_speculation_says_what_it_cannot_do(trained: Any) -> None:
    prompt = PATTERN[:, :5]
    with pytest.raises(ValueError, match="no sampling, no beams"):
        trained.generate(prompt, self_speculation=True, do_sample=True, max_new_tokens=3)
    with pytest.raises(ValueError, match="one text at a time"):
        trained.generate(prompt.expand(2, -1), self_speculation=True, max_new_tokens=3)
    with pytest.raises(ValueError, match="needs a cache"):
        trained.generate(prompt, self_speculation=True, use_cache=False, max_new_tokens=3)
    with pytest.raises(ValueError, match="grow with --over-decoding"):
        tiny_grown("LlamaForCausalLM").generate(prompt, self_speculation=True)


def test_heads_are_saved_and_resized(trained: Any, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path)
    assert (tmp_path / "over_decoding.py").is_file()
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(PATTERN, labels=PATTERN).loss, trained(PATTERN, labels=PATTERN).loss)
    again.resize_token_embeddings(VOCABULARY + 5)
    assert {len(further.head.weight) for further in again.over_decoding.heads} == {VOCABULARY + 5}
    assert again(PATTERN, labels=PATTERN).loss.isfinite()
