"""Every file of `configs/`, with its models replaced by small ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from architectures.families import save_vision_model
from safetensors.torch import load_file
from small_hypernetworks import random_hypernetwork
from small_models import load, save_model
from transformers import AutoModelForImageTextToText, AutoTokenizer

COOKBOOK = Path(__file__).parents[2] / "configs"
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
HEADERS = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}"
)
CHAT_MARKUP = ["<|im_start|>", "<|im_end|>"]
IMAGES = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
HEADER_MARKUP = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

# By name in the cookbook: tokenizer, control tokens, chat template, settings of the model.
LLAMA = ("sentencepiece_bpe", HEADER_MARKUP, HEADERS)
QWEN = ("byte_level", CHAT_MARKUP, CHATML)
SMALL: dict[str, tuple[str, list[str], str | None, dict[str, Any]]] = {
    "meta-llama/Llama-3.2-1B": (*LLAMA, {"layers": 16, "tied": True}),
    "meta-llama/Llama-3.2-1B-Instruct": (*LLAMA, {"layers": 16, "tied": True, "seed": 1}),
    "meta-llama/Llama-3.1-8B": (*LLAMA, {"seed": 2}),
    "meta-llama/Llama-3.1-8B-Instruct": (*LLAMA, {"seed": 3}),
    "meta-llama/Llama-3.1-70B-Instruct": (*LLAMA, {"seed": 4, "rows": 2048, "hidden": 32}),
    "Qwen/Qwen2.5-0.5B-Instruct": (*QWEN, {"seed": 5, "tied": True}),
    "Qwen/Qwen2.5-1.5B-Instruct": (*QWEN, {"seed": 6, "tied": True}),
    "Qwen/Qwen2.5-7B": (*QWEN, {"seed": 7}),
    "Qwen/Qwen2.5-7B-Instruct": (*QWEN, {"seed": 8}),
    "Qwen/Qwen2.5-Coder-7B": (*QWEN, {"seed": 9}),
    "mistralai/Mistral-7B-v0.1": ("sentencepiece_bpe", [], None, {"seed": 10}),
    "teknium/OpenHermes-2.5-Mistral-7B": (
        "sentencepiece_bpe",
        CHAT_MARKUP,
        CHATML,
        {"seed": 11},
    ),
    "example/mistral-7b-code": ("sentencepiece_bpe", ["<fim>", "<fill>"], None, {"seed": 12}),
    "mistralai/Mistral-7B-v0.3": ("sentencepiece_bpe", [], None, {"seed": 13}),
    "example/mistral-7b-tekken": ("byte_level", [], None, {"seed": 14}),
}


@pytest.fixture(scope="module")
def small(real_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The small model that stands for a name."""
    root = tmp_path_factory.mktemp("cookbook")

    def tokenizer(kind: str, markup: list[str], template: str | None) -> Any:
        made = real_tokenizer(kind)
        made.add_special_tokens({"additional_special_tokens": markup})
        made.chat_template = template
        return made

    def make(name: str) -> Path:
        path: Path = root / name.removeprefix("./")
        if path.exists():
            return path
        if name == "./domain-tokenizer":
            real_tokenizer("wordpiece").save_pretrained(path)
        elif name == "openai-community/gpt2":
            real_tokenizer("byte_level").save_pretrained(path)
        elif name == "benjamin/zett-hypernetwork-Mistral-7B-v0.1":
            base = make("mistralai/Mistral-7B-v0.1")
            random_hypernetwork(path, base, width=16, tied=False, _name_or_path=base.name)
        elif name == "Qwen/Qwen2.5-VL-3B-Instruct":
            of_images = tokenizer("byte_level", CHAT_MARKUP + IMAGES, CHATML)
            save_vision_model(path, "qwen2_5_vl", of_images)
            config = json.loads((path / "config.json").read_text())
            for token in IMAGES:
                key = token.strip("<|>").replace("_pad", "_token") + "_id"
                key = key if "token" in key else key.replace("_id", "_token_id")
                assert key in config
                config[key] = of_images.convert_tokens_to_ids(token)
            (path / "config.json").write_text(json.dumps(config))
        else:
            kind, markup, template, settings = SMALL[name]
            save_model(
                path, tokenizer(kind, markup, template), **{"hidden": 16, "layers": 1, **settings}
            )
        return path

    return make


def with_small(entry: Any, small: Callable[[str], Path]) -> Any:
    """A config with every name of a model replaced."""
    if isinstance(entry, dict):
        return {key: with_small(value, small) for key, value in entry.items()}
    if isinstance(entry, list):
        return [with_small(value, small) for value in entry]
    is_model = isinstance(entry, str) and "/" in entry
    return str(small(entry)) if is_model else entry


@pytest.fixture
def cooked(small: Callable[[str], Path], merge: Any) -> Callable[[str], Path]:
    return lambda name: merge(
        with_small(yaml.safe_load((COOKBOOK / f"{name}.yml").read_text()), small), name
    )


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
