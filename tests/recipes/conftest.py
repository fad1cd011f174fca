"""Small models in the place of those that recipes name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from architectures.families import save_vision_model
from recipes.cookbook import CHAT_MARKUP, CHATML, COOKBOOK, IMAGES, SMALL, with_small
from small_hypernetworks import random_hypernetwork
from small_models import save_model


@pytest.fixture(scope="session")
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
            random_hypernetwork(path, base, tied=False, _name_or_path=base.name)
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


@pytest.fixture
def cooked(small: Callable[[str], Path], merge: Any) -> Callable[[str], Path]:
    return lambda name: merge(
        with_small(yaml.safe_load((COOKBOOK / f"{name}.yml").read_text()), small), name
    )
