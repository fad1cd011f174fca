"""Every file of `configs/`, with its models replaced by small ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from recipes.cookbook import CHAT_MARKUP, COOKBOOK
from safetensors.torch import load_file
from small_models import load
from transformers import AutoModelForImageTextToText, AutoTokenizer


@pytest.mark.parametrize("file", sorted(path.name for path in COOKBOOK.glob("*.yml")))
def test_it_opens_with_when_to_use_it_and_runs(file: str, cooked: Any) -> None:
    first, *rest = (COOKBOOK / file).read_text().splitlines()
    assert first.startswith("# ")
    comment = " ".join(line for line in rest if line.startswith("#"))
    assert "Use " in comment
    out = cooked(file.removesuffix(".yml"))
    if file == "vision-language.yml":
        model, info = AutoModelForImageTextToText.from_pretrained(out, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        tokenizer = AutoTokenizer.from_pretrained(out)
    else:
        model, tokenizer = load(out)
    for parameter in model.parameters():
        assert torch.isfinite(parameter).all()
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)


def test_a_draft_model_drafts_for_its_donor(small: Any, cooked: Any) -> None:
    draft, _ = load(cooked("draft-model"))
    target, tokenizer = load(small("meta-llama/Llama-3.1-70B-Instruct"))
    assert draft.config.vocab_size == target.config.vocab_size == 2048
    assert draft.get_input_embeddings().weight.shape[0] == 2048
    inputs = tokenizer("The value of an object is", return_tensors="pt")
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    alone = target.generate(**inputs, **settings)
    assisted = target.generate(**inputs, **settings, assistant_model=draft)
    assert torch.equal(assisted, alone), "a draft changes the speed, not the text"


def test_a_hypernetwork_serves_a_tokenizer_without_a_model(cooked: Any) -> None:
    record = json.loads((cooked("hypernetwork") / "tokenizer_transplant.json").read_text())
    for entry in record["models"][0]["tensors"]:
        assert entry["hypernetwork"]["predicted"] == entry["counts"]["approximated"] > 200
    assert not any("was trained for" in warning for warning in record["warnings"])


def test_a_chat_keeps_its_format(small: Any, cooked: Any) -> None:
    out = cooked("keep-chat-format")
    tokenizer = AutoTokenizer.from_pretrained(out)
    base = AutoTokenizer.from_pretrained(small("Qwen/Qwen2.5-1.5B-Instruct"))
    chat = [{"role": "user", "content": "the value"}, {"role": "assistant", "content": "is"}]
    ids = tokenizer.apply_chat_template(chat, return_dict=False)
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text.startswith("<|start_header_id|>user<|end_header_id|>")
    held = load_file(out / "model.safetensors")["model.embed_tokens.weight"].float()
    own = load_file(small("Qwen/Qwen2.5-1.5B-Instruct") / "model.safetensors")
    theirs = own["model.embed_tokens.weight"].bfloat16().float()
    wanted = {"<|start_header_id|>": "<|im_start|>", "<|eot_id|>": "<|im_end|>"}
    wanted |= {
        getattr(tokenizer, f"{role}_token"): getattr(base, f"{role}_token")
        for role in ("bos", "eos", "pad", "unk")
    }
    for token, source in wanted.items():
        row = theirs[base.convert_tokens_to_ids(source)]
        assert torch.equal(held[tokenizer.convert_tokens_to_ids(token)], row), token
    # What has no counterpart is approximated, and is nobody's copy.
    between = tokenizer.convert_tokens_to_ids("<|end_header_id|>")
    assert between in ids
    assert held[between].norm() > 0
    assert not (theirs == held[between]).all(dim=1).any()


def test_images_keep_their_tokens(small: Any, cooked: Any) -> None:
    name = "Qwen/Qwen2.5-VL-3B-Instruct"
    out = cooked("vision-language")
    config = json.loads((out / "config.json").read_text())
    before = json.loads((small(name) / "config.json").read_text())
    tokenizers = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(small(name))
    keys = [key for key in before if key.startswith(("image", "video", "vision_")) and "id" in key]
    assert len(keys) == 4
    for key in keys:
        ours, theirs = (
            t.convert_ids_to_tokens(c[key])
            for t, c in zip(tokenizers, (config, before), strict=True)
        )
        assert ours == theirs
        assert config[key] in tokenizers[0](f"the{ours}value").input_ids
        assert tokenizers[0].added_tokens_decoder[config[key]].special


def test_a_union_keeps_each_models_markup(cooked: Any) -> None:
    held = AutoTokenizer.from_pretrained(cooked("union-chat-and-code")).get_vocab()
    assert {*CHAT_MARKUP, "<fim>", "<fill>"} <= held.keys()
    assert len(held) == 2004
