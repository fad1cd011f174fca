"""Damaged weights: of the base, of the donor, and of a model that is evaluated."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

from hostile.scene import Case, Edit, Scene, both, cut, in_json, refused, remove, write

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


def header(change: Callable[[Any], Any], length: int | None = None) -> Callable[[str], Edit]:
    """Change the JSON at the head of a safetensors file, or only the length that it gives."""

    def of(where: str) -> Edit:
        def edit(scene: Scene) -> None:
            path = getattr(scene, where) / FILE
            data = path.read_bytes()
            size = struct.unpack("<Q", data[:8])[0]
            found = json.loads(data[8 : 8 + size])
            changed = change(found)
            text = changed if isinstance(changed, bytes) else json.dumps(found).encode()
            path.write_bytes(
                struct.pack("<Q", len(text) if length is None else length) + text + data[8 + size :]
            )

        return edit

    return of


def index(content: Any) -> Callable[[str], Edit]:
    """An index in the place of the whole file, which becomes a shard."""

    def of(where: str) -> Edit:
        def edit(scene: Scene) -> None:
            path = getattr(scene, where)
            (path / FILE).rename(path / "shard.safetensors")
            (path / INDEX).write_text(content if isinstance(content, str) else json.dumps(content))

        return edit

    return of


def lying_index(change: Callable[[dict[str, str]], Any]) -> Callable[[str], Edit]:
    """An index of all tensors, with something wrong in it."""

    def of(where: str) -> Edit:
        def edit(scene: Scene) -> None:
            from safetensors import safe_open

            path = getattr(scene, where)
            with safe_open(path / FILE, framework="pt") as file:
                places = dict.fromkeys(file.keys(), "shard.safetensors")
            (path / FILE).rename(path / "shard.safetensors")
            changed = change(places)
            (path / INDEX).write_text(
                json.dumps({"weight_map": places if changed is None else changed})
            )

        return edit

    return of


def pickled(content: bytes) -> Callable[[str], Edit]:
    return lambda where: both(remove(where, FILE), write(where, "pytorch_model.bin", content))


DAMAGE: dict[str, tuple[Callable[[str], Edit], str]] = {
    "half of the file": (lambda where: cut(where, FILE, 0.5), FILE),
    "all but the last bytes": (lambda where: cut(where, FILE, 0.999), FILE),
    "five bytes": (lambda where: write(where, FILE, b"\x00\x01\x02\x03\x04"), FILE),
    "an empty file": (lambda where: write(where, FILE, b""), FILE),
    "a page of HTML": (lambda where: write(where, FILE, "<html>404: not found</html>" * 9), FILE),
    "a pointer of Git LFS": (
        lambda where: write(
            where,
            FILE,
            "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 9\n",
        ),
        FILE,
    ),
    "a header that is not JSON": (header(lambda _: b"{" * 50), FILE),
    "a header that is a list": (header(lambda _: b"[1, 2, 3]"), FILE),
    "a header of 2^60 bytes": (header(lambda _: b"{}", 1 << 60), FILE),
    "offsets past the end": (
        header(lambda h: h["lm_head.weight"].update(data_offsets=[0, 1 << 40])),
        FILE,
    ),
    "a negative shape": (header(lambda h: h["lm_head.weight"].update(shape=[-1, 16])), FILE),
    "an unknown dtype": (header(lambda h: h["lm_head.weight"].update(dtype="F7")), FILE),
    "an index that is not JSON": (index("{"), INDEX),
    "an index that is a list": (index([]), INDEX),
    "an index without a map": (index({"metadata": {}}), INDEX),
    "an index whose map is a list": (index({"weight_map": ["a"]}), INDEX),
    "an index of numbers": (index({"weight_map": {"lm_head.weight": 1}}), INDEX),
    "an empty index": (index({"weight_map": {}}), INDEX),
    "an index of a shard that is not there": (
        lying_index(lambda m: m.update({"lm_head.weight": "other.safetensors"})),
        "other.safetensors",
    ),
    "an index of a tensor that no shard has": (
        lying_index(lambda m: m.update({"model.embed_tokens.weight2": "shard.safetensors"})),
        "model.embed_tokens.weight2",
    ),
    "an index that leads out of the folder": (
        lying_index(lambda m: m.update({"lm_head.weight": "../../../etc/passwd"})),
        "../../../etc/passwd",
    ),
    "a pickle that is text": (pickled(b"hello" * 100), "pytorch_model.bin"),
    "a pickle that runs code": (
        pickled(b"cos\nsystem\n(S'touch run'\ntR."),
        "pytorch_model.bin",
    ),
    "no weights": (lambda where: remove(where, FILE), ""),
}

CASES: list[Case] = [
    *(
        refused(f"{name} in the {where}", damage(where), f"{{{where}}}", said)
        for name, (damage, said) in DAMAGE.items()
        for where in ("base", "donor")
    ),
    refused(
        "weights that are a folder",
        both(remove("base", FILE), lambda s: (s.base / FILE).mkdir()),
        "{base}",
    ),
    refused(
        "a config.json that is not JSON", write("base", "config.json", "{"), "{base}", "config.json"
    ),
    refused(
        "a config.json that is a list", write("base", "config.json", "[]"), "{base}", "config.json"
    ),
    refused(
        "a config.json that is null", write("base", "config.json", "null"), "{base}", "config.json"
    ),
    refused("an empty config.json", write("base", "config.json", "{}"), "{base}"),
    refused("no config.json", remove("base", "config.json"), "{base}", "config.json"),
    refused("a donor without config.json", remove("donor", "config.json"), "{donor}"),
    refused("a donor whose config.json is no JSON", write("donor", "config.json", "{"), "{donor}"),
    refused(
        "an architecture that is not known",
        in_json(
            "base", "config.json", lambda c: c.update(architectures=["Nope"], model_type="nope")
        ),
        "{base}",
        "nope",
    ),
    refused(
        "no architectures",
        in_json("base", "config.json", lambda c: c.pop("architectures") and None),
        "{base}",
        "architectures",
    ),
    refused(
        "architectures that are a number",
        in_json("base", "config.json", lambda c: c.update(architectures=5)),
        "{base}",
    ),
    refused(
        "a hidden size that is text",
        in_json("base", "config.json", lambda c: c.update(hidden_size="many")),
        "{base}",
    ),
    refused(
        "layers that are negative",
        in_json("base", "config.json", lambda c: c.update(num_hidden_layers=-3)),
        "{base}",
    ),
    refused(
        "heads that do not fit the weights",
        in_json("base", "config.json", lambda c: c.update(num_key_value_heads=3)),
        "{base}",
        "shape",
    ),
]
