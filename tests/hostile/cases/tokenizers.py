"""Tokenizers that do not load, or not as they should: the donor's, the base's, an evaluated one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile.scene import Case, Edit, both, in_json, refused, remove, right, tokenizer, write

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"


def at(*path: Any, value: Any) -> Any:
    """Sets what is at a path of keys."""

    def change(content: Any) -> None:
        *way, last = path
        for key in way:
            content = content[key]
        content[last] = value

    return change


def without(*path: Any) -> Any:
    def change(content: Any) -> None:
        *way, last = path
        for key in way:
            content = content[key]
        del content[last]

    return change


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


BROKEN: dict[str, Any] = {
    "an unknown decoder": at("decoder", value={"type": "Nope"}),
    "a decoder that is a number": at("decoder", value=3),
    "an unknown model": at("model", "type", value="Nope"),
    "no model": without("model"),
    "merges of unknown tokens": lambda t: t["model"]["merges"].append(["qqqq", "zzzz"]),
    "merges that are numbers": at("model", "merges", value=[1, 2]),
    "merges of three parts": lambda t: t["model"]["merges"].append(["a", "b", "c"]),
    "a negative id": at("model", "vocab", "a", value=-5),
    "an id that is text": at("model", "vocab", "a", value="five"),
    "an id that is a fraction": at("model", "vocab", "a", value=1.5),
    "an id past 32 bits": at("model", "vocab", "a", value=1 << 40),
    "a vocabulary that is a list": at("model", "vocab", value=[]),
    "added tokens that are numbers": at("added_tokens", value=[1, 2]),
    "added tokens without content": at("added_tokens", value=[{"id": 3}]),
    "a pre-tokenizer with a bad pattern": at(
        "pre_tokenizer",
        value={
            "type": "Split",
            "pattern": {"Regex": "("},
            "behavior": "Isolated",
            "invert": False,
        },
    ),
    "a post-processor without tokens": at(
        "post_processor", value={"type": "TemplateProcessing", "single": [], "pair": []}
    ),
    "an unknown version": at("version", value="99"),
}
WHOLE: dict[str, str | bytes] = {
    "an empty object": "{}",
    "an empty file": "",
    "a list": "[]",
    "null": "null",
    "text": "hello",
    "bytes that are not UTF-8": b"\xff\xfe\x00\x01",
    "half of a file": '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a"',
    "a nest of 100,000 objects": nested(100_000),
}


def made_by(where: str, file: str, make: Callable[[Path], None]) -> Edit:
    return lambda scene: make(getattr(scene, where) / file)


def added(content: str) -> Callable[[Any], None]:
    """One more control token."""

    def change(whole: Any) -> None:
        whole["added_tokens"].append({**whole["added_tokens"][0], "content": content, "id": 500})

    return change


CASES: list[Case] = [
    *(
        refused(
            f"tokenizer.json with {name} in the {where}", tokenizer(where, change), f"{{{where}}}"
        )
        for name, change in BROKEN.items()
        for where in ("donor", "base")
    ),
    *(
        refused(
            f"a tokenizer.json of {name} in the {where}",
            write(where, TOKENIZER, content),
            f"{{{where}}}",
        )
        for name, content in WHOLE.items()
        for where in ("donor", "base")
    ),
    refused("eos is a number", in_json("donor", SETTINGS, at("eos_token", value=7)), "{donor}"),
    refused("eos is a list", in_json("donor", SETTINGS, at("eos_token", value=["a"])), "{donor}"),
    refused(
        "a tokenizer_config.json of a list", write("donor", SETTINGS, "[]"), "{donor}", SETTINGS
    ),
    refused(
        "an unknown tokenizer class without files",
        both(
            remove("donor", TOKENIZER),
            in_json("donor", SETTINGS, at("tokenizer_class", value="Nope")),
        ),
        "{donor}",
    ),
    refused(
        "only Mistral's tekken.json",
        both(remove("donor", "tokenizer*"), write("donor", "tekken.json", "{}")),
        "{donor}",
        "convert_tekken_tokenizer",
    ),
    *(
        refused(
            f"a {name} in the place of {file} of the {where}",
            both(remove(where, file), made_by(where, file, make)),
            f"{{{where}}}",
        )
        for where in ("donor", "base")
        for file in (TOKENIZER, "config.json", "model.safetensors")
        for name, make in (("pipe", os.mkfifo), ("folder", os.mkdir))
    ),
    refused(
        "a length that is text",
        in_json("donor", SETTINGS, at("model_max_length", value="long")),
        "{donor}",
    ),
    refused(
        "control tokens alone",
        tokenizer(
            "donor", lambda t: t.update(added_tokens=[]) or t["model"].update(vocab={}, merges=[])
        ),
        "{donor}",
    ),
    refused(
        "two tokens of one id",
        tokenizer("donor", lambda t: t["model"]["vocab"].update(b=t["model"]["vocab"]["a"])),
        "{donor}",
    ),
    right("a token that sets a title", tokenizer("donor", added("\x1b]0;title\x07\x1b[2J"))),
    right("a token that forges a line", tokenizer("donor", added("x\nWarnings: none\n"))),
    right("a token that turns text around", tokenizer("donor", added("\u202eabc"))),
]
