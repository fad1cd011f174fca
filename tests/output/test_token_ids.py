"""Wherever a setting holds a token id, it names in the output the token that it named in the base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from mergekit.architecture import get_architecture_info
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import _model_out_config
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from merges import swap
from small_models import save_model

from mergekit_omp.errors import TransplantError
from mergekit_omp.transplant.token_ids import moved

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
)
SHARED = ["<|extra|>", "<|image|>", "<|im_end|>"]
LAYERS = {"layers": 1, "hidden": 16}


@pytest.fixture(scope="module")
def donor(real_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte-level, with some of the base's markup at other ids."""
    tokenizer = real_tokenizer("byte_level")
    tokenizer.add_special_tokens({"extra_special_tokens": SHARED})
    return save_model(tmp_path_factory.mktemp("ids") / "donor", tokenizer, **LAYERS)


@pytest.fixture
def base(real_tokenizer: Any, tmp_path: Path) -> Callable[..., Path]:
    """A base with markup of its own, and JSON files that are laid beside its weights."""

    def make(files: dict[str, Any], **settings: Any) -> Path:
        tokenizer = real_tokenizer("sentencepiece_bpe")
        tokenizer.add_special_tokens({"extra_special_tokens": ["<|own|>", *SHARED]})
        path = save_model(tmp_path / "base", tokenizer, **LAYERS, **settings)
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (path / name).write_text(text)
        return path

    return make


@pytest.fixture(scope="module")
def ids(real_tokenizer: Any) -> dict[str, int]:
    """The base's ids of some of its tokens."""
    tokenizer = real_tokenizer("sentencepiece_bpe")
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|own|>", *SHARED]})
    return {token: tokenizer.convert_tokens_to_ids(token) for token in ["<|own|>", *SHARED]}


def content(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / name).read_text())


def warned(out: Path) -> list[str]:
    return content(out, "tokenizer_transplant.json")["warnings"]


def test_every_key_of_the_generation_config_follows_its_tokens(
    base: Any, donor: Path, ids: dict[str, int], merge: Any
) -> None:
    extra, image, end, own = (ids[t] for t in ("<|extra|>", "<|image|>", "<|im_end|>", "<|own|>"))
    path = base(
        {
            "generation_config.json": {
                "eos_token_id": [ids["<|im_end|>"], 2],
                "temperature": 0.5,
                "suppress_tokens": [extra, own],
                "begin_suppress_tokens": [image],
                "bad_words_ids": [[extra, image], [own, extra]],
                "force_words_ids": [[extra], [[image], [extra, image]]],
                "sequence_bias": [[[extra, image], -5.0], [[own], 2.0]],
                "forced_decoder_ids": [[1, extra], [2, None]],
                "forced_bos_token_id": image,
                "decoder_start_token_id": own,
                "lang_to_id": {"<|en|>": extra},
                "no_timestamps_token_id": image,
            }
        }
    )
    out = merge(swap(path, donor, "mean"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    e, i, n = tokenizer.convert_tokens_to_ids(["<|extra|>", "<|image|>", "<|im_end|>"])
    assert (e, i, n) != (extra, image, end)
    found = content(out, "generation_config.json")
    assert found["eos_token_id"] == [tokenizer.eos_token_id, n]
    assert found["temperature"] == 0.5
    assert found["suppress_tokens"] == [e]
    assert found["begin_suppress_tokens"] == [i]
    assert found["bad_words_ids"] == [[e, i]]
    assert found["force_words_ids"] == [[e], [[i], [e, i]]]
    assert found["sequence_bias"] == [[[e, i], -5.0]]
    assert found["forced_decoder_ids"] == [[1, e], [2, None]]
    assert (found["forced_bos_token_id"], found["no_timestamps_token_id"]) == (i, i)
    assert "decoder_start_token_id" not in found
    assert found["lang_to_id"] == {"<|en|>": e}
    said = " ".join(warned(out))
    for key in ("suppress_tokens", "bad_words_ids", "sequence_bias", "decoder_start_token_id"):
        assert f"{key} names id {own} ('<|own|>')" in said
    assert "force_words_ids" not in said
    config = transformers.GenerationConfig.from_pretrained(out)
    assert config.eos_token_id == [tokenizer.eos_token_id, n]


def test_keys_of_the_config_follow_at_every_level(
    base: Any, donor: Path, ids: dict[str, int], merge: Any
) -> None:
    path = base(
        {"preprocessor_config.json": {"image_token_id": ids["<|image|>"], "size": {"height": 4}}},
        image_token_index=ids["<|image|>"],
        video_token_id=ids["<|own|>"],
        visual_token_ids=[ids["<|image|>"], ids["<|extra|>"]],
        codebook_pad_token_id=7,
        num_image_tokens=9,
        task_specific_params={
            "chat": {"decoder_start_token_id": ids["<|extra|>"], "max_length": 9}
        },
    )
    out = merge(swap(path, donor, "mean"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    e, i = tokenizer.convert_tokens_to_ids(["<|extra|>", "<|image|>"])
    config = content(out, "config.json")
    assert (config["image_token_index"], config["visual_token_ids"]) == (i, [i, e])
    assert config["task_specific_params"] == {
        "chat": {"decoder_start_token_id": e, "max_length": 9}
    }
    assert (config["codebook_pad_token_id"], config["num_image_tokens"]) == (7, 9)
    assert config["video_token_id"] == ids["<|own|>"]
    processor = content(out, "preprocessor_config.json")
    assert processor == {"image_token_id": i, "size": {"height": 4}}
    (said,) = [w for w in warned(out) if "video_token_id" in w]
    assert "'<|own|>'" in said and "set by hand" in said


def test_a_chat_stops_where_its_template_ends_a_turn(base: Any, donor: Path, merge: Any) -> None:
    out = merge(swap(base({}), donor, "mean", chat_template=CHATML))
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert content(out, "generation_config.json")["eos_token_id"] == [tokenizer.eos_token_id, end]
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    written = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
    assert end in written
    # <|im_start|> is no token of the output.
    assert any("writes '<|im_start|>'" in w for w in warned(out))
    card = (out / "README.md").read_text().replace("\\", "")
    assert "* The chat template writes '<|im_start|>'" in card


def test_a_chat_that_does_not_stop_is_told_by_the_merge(base: Any, models: Any, merge: Any) -> None:
    plain = models("plain", "byte_level", **LAYERS)
    out = merge(swap(base({}), plain, "mean", chat_template=CHATML))
    stops = content(out, "generation_config.json")["eos_token_id"]
    assert stops == transformers.AutoTokenizer.from_pretrained(out).eos_token_id
    (said,) = [w for w in warned(out) if "does not stop" in w]
    assert "'<|im_end|>'" in said


@pytest.mark.parametrize("written", ["[]", "null", "{", '"text"'])
def test_a_generation_config_that_is_none(
    written: str, base: Any, donor: Path, refusal: Any
) -> None:
    said = refusal(swap(base({"generation_config.json": written}), donor, "mean"))
    assert "generation_config.json" in said and "Mend it, or remove it" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bad_words_ids", [1, 2]),
        ("bad_words_ids", "no"),
        ("force_words_ids", [[1, "a"]]),
        ("sequence_bias", {"x": 1}),
        ("sequence_bias", [[1, 2]]),
        ("forced_decoder_ids", [1]),
        ("decoder_start_token_id", 1.5),
    ],
)
def test_a_value_of_another_shape_is_left_out_and_named(
    key: str, value: Any, base: Any, donor: Path, merge: Any
) -> None:
    out = merge(swap(base({"generation_config.json": {key: value, "top_k": 3}}), donor, "mean"))
    found = content(out, "generation_config.json")
    assert key not in found and found["top_k"] == 3
    assert any(key in w and "goes without it" in w for w in warned(out))


def test_an_older_dictionary_of_biases() -> None:
    lost: list[int] = []
    new = moved("sequence_bias", {"(1, 2)": 3.0}, lambda i: i + 10, lost, keep_lost=False)
    assert new == [[[11, 12], 3.0]]
    assert not lost


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("nope", "neither a template nor the name of one"),
        ("{% for m in messages %}{{ m['content'] }}", "not a template that Jinja understands"),
    ],
)
def test_a_chat_template_that_is_none(
    template: str, said: str, base: Any, donor: Path, refusal: Any
) -> None:
    assert said in refusal(swap(base({}), donor, "mean", chat_template=template))


def test_planning_again_on_one_config_moves_ids_from_where_the_base_has_them(
    base: Any, donor: Path, ids: dict[str, int], real_tokenizer: Any, tmp_path: Path
) -> None:
    image, extra = ids["<|image|>"], ids["<|extra|>"]
    path = base({}, image_token_index=image, visual_token_ids=[image, extra])
    options = MergeOptions(quiet=True)
    first = MergeConfiguration.model_validate(swap(path, donor, "mean"))
    architecture = get_architecture_info(first, options)
    LoaderCache().setup(options=options)
    out_config = _model_out_config(first, architecture)
    before = out_config.to_dict()

    def plan(source: Path | str, **more: Any) -> dict[str, Any]:
        config = MergeConfiguration.model_validate(swap(path, source, **more))
        MergePlanner(config, architecture, options, out_config).plan_to_disk(str(tmp_path / "out"))
        return out_config.to_dict()

    with pytest.raises(TransplantError, match="lm_head"):
        plan(donor, parameters={"k": [{"filter": "lm_haed", "value": 8}, {"value": 4}]})
    assert out_config.to_dict() == before, "a plan that is refused changes nothing"
    once, again, back = plan(donor), plan(donor), plan("base")
    assert once == again
    tokens = real_tokenizer("byte_level")
    tokens.add_special_tokens({"extra_special_tokens": SHARED})
    assert once["image_token_index"] == tokens.convert_tokens_to_ids("<|image|>") != image
    assert once["visual_token_ids"] == tokens.convert_tokens_to_ids(["<|image|>", "<|extra|>"])
    for key in ("image_token_index", "visual_token_ids", "vocab_size"):
        assert back[key] == before[key] != once[key]
