"""transformers 4.57 and 5 read the same model from an output, with and without remote code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from merges import swap
from readers import OlderTransformers, read
from small_models import save_model
from tokenizers import pre_tokenizers

TEXTS = ["Hello wörld, def f(x):\n    return 12345\n", "  <s> x, again </s>", "中文 é 🎉"]
SAME = ("ids", "plain", "inputs", "texts", "roles", "special", "padding_side", "template")
LAYERS = {"layers": 1, "hidden": 16}


def assert_read_alike(out: Path, older: OlderTransformers) -> dict[str, Any]:
    """What transformers 5 reads, and 4.57 too."""
    ours = read(out, TEXTS)
    assert not ours["problems"]
    for trust in (None, True):
        theirs = older.read(out, TEXTS, trust=trust)
        assert theirs["version"].startswith("4.57.")
        assert not theirs["problems"]
        for key in (*SAME, "stops", "vocab_size"):
            assert theirs[key] == ours[key], key
        torch.testing.assert_close(
            torch.tensor(theirs["logits"]), torch.tensor(ours["logits"]), rtol=1e-5, atol=1e-5
        )
        trusted = read(out, TEXTS, trust=trust, model=False)
        assert all(trusted[key] == ours[key] for key in SAME)
    return ours


# Plain mergekit asks for the buffers that the published checkpoints hold.
BUFFERS = {
    "gpt_neox.layers.0.attention.bias": [1, 1, 4, 4],
    "gpt_neox.layers.0.attention.masked_bias": [1],
    "gpt_neox.layers.0.attention.rotary_emb.inv_freq": [1],
}
# Qwen2 is one of the families whose own class transformers 5 takes whatever the files say.
BASES = {
    "llama": ("sentencepiece_bpe", "byte_level", {}),
    "qwen2": ("byte_level", "sentencepiece_bpe", {"tied": True}),
    "gemma3_text": ("sentencepiece_bpe", "byte_level", {"tied": True, "head_dim": 8, "layers": 6}),
    "gpt_neox": ("byte_level", "wordpiece", {"rotary_pct": 0.5, "buffers": BUFFERS}),
    "phi": ("byte_level", "unigram", {"partial_rotary_factor": 0.5, "num_key_value_heads": 4}),
}


@pytest.mark.parametrize("family", BASES)
def test_both_releases_read_the_same(
    family: str, models: Any, merge: Any, older: OlderTransformers
) -> None:
    own, other, settings = BASES[family]
    base = models(family, own, model_type=family, **{**LAYERS, **settings})
    out = merge(swap(base, models("donor", other, **LAYERS), "mean"))
    ours = assert_read_alike(out, older)
    theirs = read(models("donor", other, **LAYERS), TEXTS, model=False)
    assert ours["plain"] == theirs["plain"]


ROPE = {
    "far": {"rope_theta": 500_000.0},
    "scaled": {
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
}


@pytest.mark.parametrize("rope", ROPE)
@pytest.mark.parametrize("published", [True, False], ids=["as_published", "as_saved"])
def test_positions_are_the_bases(
    rope: str, published: bool, models: Any, merge: Any, older: OlderTransformers, tmp_path: Path
) -> None:
    """A base whose config has the keys of 4.57, and one that transformers 5 has saved."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(models("sp", "sentencepiece_bpe"))
    base = save_model(tmp_path / "base", tokenizer, **LAYERS, **ROPE[rope])
    if published:
        file = base / "config.json"
        config = json.loads(file.read_text())
        del config["rope_parameters"]
        file.write_text(json.dumps({**config, **ROPE[rope]}))
    out = merge(swap(base, models("donor", "byte_level", **LAYERS), "mean"))
    assert_read_alike(out, older)
    assert json.loads((out / "config.json").read_text())["rope_theta"] == 500_000.0
    plain = transformers.AutoConfig.from_pretrained(out)
    assert plain.rope_parameters == transformers.AutoConfig.from_pretrained(base).rope_parameters


def test_special_tokens_and_spaces_of_the_donor(
    models: Any, merge: Any, older: OlderTransformers, tmp_path: Path
) -> None:
    """Lists of further special tokens, named ones, and a space that the tokenizer puts in front."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(models("bytes", "byte_level"))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|turn|>", "<|end of turn|>"]})
    tokenizer.add_tokens(transformers.AddedToken("<img>", special=True))
    donor = save_model(tmp_path / "donor", tokenizer, **LAYERS)
    file = donor / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "image_token": "<img>", "padding_side": "left"}))
    out = merge(swap(models("sp", "sentencepiece_bpe", **LAYERS), donor, "mean"))
    ours = assert_read_alike(out, older)
    assert ours["padding_side"] == "left"
    assert ours["plain"] == read(donor, TEXTS, model=False)["plain"]
    loaded = transformers.AutoTokenizer.from_pretrained(out)
    assert loaded.image_token == "<img>"
    assert set(loaded.convert_tokens_to_ids(["<|turn|>", "<|end of turn|>", "<img>"])) <= set(
        ours["special"]
    )


def test_an_earlier_output_as_donor(models: Any, merge: Any, older: OlderTransformers) -> None:
    """Its tokenizer class of code is not the donor's own."""
    qwen = models("qwen2", "byte_level", model_type="qwen2", tied=True, **LAYERS)
    donor = models("donor", "sentencepiece_bpe", **LAYERS)
    first = merge(swap(qwen, donor, "mean"), "first")
    assert (first / "output_tokenizer.py").exists()
    out = merge(swap(models("bytes", "byte_level", **LAYERS), first, "mean"))
    assert not (out / "output_tokenizer.py").exists()
    assert_read_alike(out, older)


@pytest.mark.parametrize("donor", ["byte_level", "sentencepiece_bpe"])
def test_gguf_conversion_sees_the_same_ids(donor: str, models: Any, merge: Any) -> None:
    base = "sentencepiece_bpe" if donor == "byte_level" else "byte_level"
    out = merge(swap(models("base", base, **LAYERS), models("donor", donor, **LAYERS), "mean"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    special = gguf.SpecialVocab(out, load_merges=True, n_vocab=len(tokenizer))
    assert special.merges
    assert special.special_token_ids == {
        role: getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad", "unk")
    }
    kind = gguf.BpeVocab if donor == "byte_level" else gguf.LlamaHfVocab
    pieces = [text for text, *_ in kind(out).all_tokens()]
    pieces = [piece.decode() if isinstance(piece, bytes) else piece for piece in pieces]
    assert pieces == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
