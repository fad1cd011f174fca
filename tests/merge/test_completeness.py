"""Nothing of a model is lost in silence: every tensor is in the output, or the merge is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from merges import merge_here, swap
from merging import record, tensors
from safetensors.torch import load_file, save_file
from small_models import save_model
from trained_tokenizers import byte_level
from transformers import AutoConfig, AutoTokenizer

from mergekit_omp import Vocabulary, align

DECODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
EXPERTS = {
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
}
ENCODER_DECODER = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}
# What mergekit's definitions leave out: one model each of a kind.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "DeepseekV3ForCausalLM": (
        "deepseek_v3",
        {
            **DECODER,
            **EXPERTS,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
        },
    ),
    "BartForConditionalGeneration": ("bart", ENCODER_DECODER),
    "MarianMTModel": ("marian", ENCODER_DECODER),
    "LlamaForCausalLM": ("llama", {**DECODER, "attention_bias": True, "mlp_bias": True}),
    "Qwen2MoeForCausalLM": (
        "qwen2_moe",
        {
            **DECODER,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "mlp_only_layers": [0],
        },
    ),
    "Glm4MoeForCausalLM": ("glm4_moe", {**DECODER, **EXPERTS, "num_nextn_predict_layers": 1}),
}


@pytest.fixture(scope="module")
def small_donor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A donor with fewer rows than any base here, so that no length fits by chance."""
    path = tmp_path_factory.mktemp("donors") / "small"
    return save_model(path, byte_level(1200), hidden=24, layers=1, seed=1)


@pytest.fixture(scope="module")
def kind(real_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("kinds")

    def make(name: str) -> Path:
        path = root / name
        if path.exists():
            return path
        tokenizer = real_tokenizer("sentencepiece_bpe")
        model_type, settings = KINDS[name]
        roles = {
            f"{r}_token_id": getattr(tokenizer, f"{r}_token_id") for r in ("bos", "eos", "pad")
        }
        if "d_model" in settings:
            roles["decoder_start_token_id"] = tokenizer.eos_token_id
        config = AutoConfig.for_model(
            model_type, vocab_size=len(tokenizer.get_vocab()), **settings, **roles
        )
        torch.manual_seed(0)
        model = getattr(transformers, name)(config)
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.normal_(std=0.2)
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        return path

    return make


def edited(path: Path, to: Path, edit: Any) -> Path:
    shutil.copytree(path, to)
    held = load_file(to / "model.safetensors")
    edit(held)
    save_file(held, to / "model.safetensors", metadata={"format": "pt"})
    return to


def with_a_further_layer(path: Path, to: Path) -> Path:
    """A layer that predicts further tokens, as published checkpoints of the family hold it."""

    def edit(held: dict[str, torch.Tensor]) -> None:
        layer = {k.replace(".1.", ".2.", 1): v.clone() for k, v in held.items() if "layers.1." in k}
        layer |= {
            "model.layers.2.embed_tokens.weight": held["model.embed_tokens.weight"].clone(),
            "model.layers.2.shared_head.head.weight": held["lm_head.weight"].clone(),
            "model.layers.2.eh_proj.weight": torch.randn(32, 64),
        }
        held |= layer

    return edited(path, to, edit)


@pytest.mark.parametrize("name", KINDS)
def test_every_tensor_of_a_base_is_in_the_output(
    name: str, kind: Any, small_donor: Path, merge: Any
) -> None:
    base = kind(name)
    out = merge(swap(base, small_donor, "zero"))
    before, after = tensors(base), tensors(out)
    assert before.keys() == after.keys()
    found = align(
        *(
            Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(p), str(p))
            for p in (base, small_donor)
        )
    )
    copied, rows = np.flatnonzero(found.source >= 0), len(found.model.strings)
    changed = [key for key in before if rows in before[key].shape]
    for key in before:
        if key not in changed:
            assert torch.equal(before[key], after[key]), key
            continue
        axis = before[key].shape.index(rows)
        ours, theirs = after[key].movedim(axis, 0), before[key].movedim(axis, 0)
        assert len(ours) == len(found.output.strings)
        assert torch.equal(ours[copied], theirs[found.source[copied]]), key
    (model,) = record(out)["models"]
    assert sorted(changed) == sorted(entry["tensor"] for entry in model["tensors"])
    cls = getattr(transformers, name)
    loaded, info = cls.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert loaded.config.vocab_size == len(found.output.strings)


def test_a_layer_that_predicts_further_tokens(
    kind: Any, small_donor: Path, tmp_path: Path, merge: Any
) -> None:
    base = with_a_further_layer(kind("Glm4MoeForCausalLM"), tmp_path / "base")
    out = merge(swap(base, small_donor, parameters={"k": 4}))
    after = tensors(out)
    assert tensors(base).keys() == after.keys()
    assert torch.equal(
        after["model.layers.2.embed_tokens.weight"], after["model.embed_tokens.weight"]
    )
    assert torch.equal(after["model.layers.2.shared_head.head.weight"], after["lm_head.weight"])


def test_layers_put_together_anew_are_as_many_as_the_config_says(
    kind: Any, small_donor: Path, merge: Any
) -> None:
    base = kind("DeepseekV3ForCausalLM")
    config = swap(base, small_donor, "zero")
    del config["models"]
    config["slices"] = [
        {"sources": [{"model": str(base), "layer_range": layers}]} for layers in ([0, 2], [1, 2])
    ]
    out = merge(config)
    loaded, info = transformers.DeepseekV3ForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert loaded.config.num_hidden_layers == 3


@pytest.mark.parametrize("donor_kind", ["MarianMTModel", "DeepseekV3ForCausalLM"])
def test_a_donor_that_mergekit_has_no_definition_of(
    donor_kind: str, kind: Any, small_donor: Path, merge: Any
) -> None:
    (model,) = record(merge(swap(small_donor, kind(donor_kind), parameters={"k": 2})))["models"]
    served = [entry["donors"][0]["tensor"] for entry in model["tensors"]]
    expected = {
        "MarianMTModel": ["model.shared.weight"] * 2,
        "DeepseekV3ForCausalLM": ["model.embed_tokens.weight", "lm_head.weight"],
    }
    assert served == expected[donor_kind]


def test_a_tensor_of_another_model_that_the_base_lacks(
    base: Path, donor: Path, tmp_path: Path, refusal: Any, inspected: Any
) -> None:
    names = [f"model.layers.0.adapter.{i}.weight" for i in range(7)]
    other = edited(
        base, tmp_path / "other", lambda held: held.update({n: torch.ones(3) for n in names})
    )
    config = swap(base, donor, "zero+linear", parameters={"weight": 0.5})
    config["models"].append({"model": str(other)})
    said = refusal(config)
    assert f"{other} holds 7 tensors ({', '.join(names[:5])}, ...)" in said
    assert "--allow-crimes" in said
    assert said in inspected(config).text

    out = tmp_path / "allowed"
    done = merge_here(config, out, "--allow-crimes")
    assert done.status == 0, done.text
    (warning,) = [w for w in record(out)["warnings"] if "adapter" in w]
    assert "is not in the output" in warning
    assert "adapter" in (out / "README.md").read_text()


def test_a_tensor_that_is_not_there(base: Path, donor: Path, tmp_path: Path, refusal: Any) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    holed = edited(base, tmp_path / "holed", lambda held: held.pop(name))
    said = refusal(swap(holed, donor, "zero"))
    assert f"{holed} lacks the tensor {name}" in said


def test_a_base_without_a_vocabulary_tensor(
    base: Path, donor: Path, tmp_path: Path, refusal: Any, inspected: Any
) -> None:
    def rename(held: dict[str, torch.Tensor]) -> None:
        for name in list(held):
            held[f"wrapped.{name}"] = held.pop(name)

    config = swap(edited(base, tmp_path / "wrapped", rename), donor, "zero")
    said = refusal(config)
    assert "has no vocabulary tensor: LlamaForCausalLM should have" in said
    assert "model.embed_tokens.weight" in said
    assert "wrapped.lm_head.weight [2000, 16]" in said
    assert said in inspected(config).text


def test_a_matrix_with_a_row_a_token_that_plays_no_known_part(
    base: Path, donor: Path, tmp_path: Path, refusal: Any
) -> None:
    odd = edited(
        base, tmp_path / "odd", lambda held: held.update({"model.prior": torch.ones(3, 2000)})
    )
    said = refusal(swap(odd, donor, "zero"))
    assert "the tensor model.prior of shape [3, 2000]" in said
    assert "plays no part that is known" in said


def test_config_keys_that_have_one_entry_a_layer_follow_the_slices(
    models: Any, donor: Path, merge: Any
) -> None:
    kinds = ["full_attention", "sliding_attention"]
    base = models(
        "qwen3", "byte_level", model_type="qwen3", layers=2, head_dim=8, layer_types=kinds
    )
    config = swap(base, donor, "zero")
    del config["models"]
    config["slices"] = [
        {"sources": [{"model": str(base), "layer_range": layers}]} for layers in ([1, 2], [0, 2])
    ]
    settings = json.loads((merge(config) / "config.json").read_text())
    assert settings["layer_types"] == [kinds[1], *kinds]
