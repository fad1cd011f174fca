"""A small merge for a case to spoil: a base, a donor and a config, copied anew for each case."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock


@dataclass
class Scene:
    """What a case may change before its commands run."""

    world: Path
    """The folder of the whole models, which stay as they are."""
    folder: Path
    """The case's own folder, and its working directory."""
    merged: Path | None = None
    """The folder of a scene that was merged as it is."""
    arguments: dict[str, list[str]] = field(default_factory=dict)
    """Further arguments by command."""
    config_text: str | None = None
    """The config's file, where the case writes it itself."""

    def copy(self, name: str, kind: str) -> Path:
        """A copy of one of the world's models."""
        path = self.folder / name
        if not path.exists():
            shutil.copytree(self.world / kind, path)
        return path

    @cached_property
    def base(self) -> Path:
        return self.copy("base", "base")

    @cached_property
    def donor(self) -> Path:
        return self.copy("donor", "donor")

    @cached_property
    def out(self) -> Path:
        """The output of a merge that has been made, with the models that it was made of."""
        assert self.merged is not None
        path = self.folder / "merged"
        shutil.copytree(self.merged / "out", path)
        for name in ("mergekit_config.yml", "tokenizer_transplant.json"):
            file = path / name
            file.write_text(file.read_text().replace(str(self.merged), str(self.folder)))
        for model in (self.base, self.donor):
            assert model.exists()
        return path

    @cached_property
    def config(self) -> dict[str, Any]:
        return {
            "merge_method": "omp",
            "base_model": str(self.base),
            "models": [{"model": str(self.base)}],
            "tokenizer_source": str(self.donor),
            "dtype": "float32",
            "parameters": {"k": 4},
        }

    def write_config(self) -> Path:
        path = self.folder / "config.yml"
        if self.config_text is None:
            self.config_text = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)
        path.write_text(self.config_text, encoding="utf-8")
        return path


Edit = Callable[[Scene], None]


@dataclass(frozen=True)
class Case:
    """One input, and how every command on it must end."""

    name: str
    edit: Edit
    says: tuple[str, ...] | None = None
    """What the one sentence must hold; None where the result must be right."""
    commands: tuple[str, ...] = ("mergekit-yaml", "inspect")
    late: bool = False
    """What only the run can tell: something was written by then, and no model."""
    mergekits: bool = False
    """Refused by mergekit before the plugin is asked, with a traceback that is not ours."""


def refused(name: str, edit: Edit, *says: str, commands: Sequence[str] = ()) -> Case:
    """A case that must end with one sentence that holds all of `says`."""
    return Case(name, edit, says, tuple(commands) or Case.commands)


def late(name: str, edit: Edit, *says: str) -> Case:
    """A case that the merge alone can refuse, in its course."""
    return Case(name, edit, says, ("mergekit-yaml",), late=True)


def right(name: str, edit: Edit, commands: Sequence[str] = ()) -> Case:
    """A case that must end well, with a right output."""
    return Case(name, edit, None, tuple(commands) or Case.commands)


def make_world(cache: Path) -> Path:
    """The whole models, a base and donors, made once for what makes them."""
    tests = Path(__file__).parent.parent
    makers = (Path(__file__), tests / "trained_tokenizers.py", tests / "small_models.py")
    version = hashlib.sha256(b"".join(path.read_bytes() for path in makers)).hexdigest()[:12]
    folder = cache / version
    with FileLock(cache / "making.lock"):
        if not folder.exists():
            make_models(folder)
    return folder


def make_models(folder: Path) -> None:
    import trained_tokenizers
    from small_models import save_model

    made = {
        "base": trained_tokenizers.sentencepiece_bpe,
        "donor": trained_tokenizers.byte_level,
        "wordpiece": trained_tokenizers.wordpiece,
        "unigram": trained_tokenizers.unigram,
    }
    draft = folder.with_name(f"{folder.name}-{os.getpid()}")
    for seed, (name, tokenizer) in enumerate(made.items()):
        save_model(draft / name, tokenizer(500), hidden=16, layers=1, seed=seed)
    draft.rename(folder)


# What cases change: each of these makes an edit.


def folder_of(scene: Scene, where: str) -> Path:
    found: Path = getattr(scene, where)
    return found


def write(where: str, name: str, content: str | bytes) -> Edit:
    """Put a file into a model's folder."""

    def edit(scene: Scene) -> None:
        path = folder_of(scene, where) / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return edit


def cut(where: str, name: str, share: float) -> Edit:
    """Keep the first part of a file."""

    def edit(scene: Scene) -> None:
        path = folder_of(scene, where) / name
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return edit


def remove(where: str, *patterns: str) -> Edit:
    def edit(scene: Scene) -> None:
        for pattern in patterns:
            for file in folder_of(scene, where).glob(pattern):
                file.unlink()

    return edit


def in_json(where: str, name: str, change: Callable[[Any], Any]) -> Edit:
    """Change a JSON file in place, or put there what `change` returns."""

    def edit(scene: Scene) -> None:
        path = folder_of(scene, where) / name
        content = json.loads(path.read_text()) if path.exists() else {}
        changed = change(content)
        path.write_text(json.dumps(content if changed is None else changed))

    return edit


def tokenizer(where: str, change: Callable[[Any], Any]) -> Edit:
    return in_json(where, "tokenizer.json", change)


def weights(where: str, change: Callable[[dict[str, Any]], Any]) -> Edit:
    """Change the tensors of a model."""

    def edit(scene: Scene) -> None:
        from safetensors.torch import load_file, save_file

        file = folder_of(scene, where) / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file({k: v.contiguous() for k, v in tensors.items()}, file, metadata={"format": "pt"})

    return edit


def config(**changes: Any) -> Edit:
    """Change the merge's config; `None` takes a key away."""

    def edit(scene: Scene) -> None:
        for key, value in changes.items():
            if callable(value):
                value = value(scene)
            if value is None:
                scene.config.pop(key, None)
            else:
                scene.config[key] = value

    return edit


def text(write_text: Callable[[Scene], str]) -> Edit:
    """Write the config's file by hand."""

    def edit(scene: Scene) -> None:
        scene.config_text = write_text(scene)

    return edit


def both(*edits: Edit) -> Edit:
    def edit(scene: Scene) -> None:
        for one in edits:
            one(scene)

    return edit
