"""The folder beside the output in which a healing keeps what it has reached, to go on from there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_omp.errors import TransplantError
from mergekit_omp.outside.files import read_json

_SETTINGS = "settings.json"
_STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_AGAIN = "Begin anew with --restart."


class Checkpoints:
    """`HEALED.healing`: one healing's checkpoints, and the settings that they belong to."""

    def __init__(self, healed: str):
        whole = Path(os.path.abspath(healed))
        self.path = whole.with_name(f"{whole.name}.healing")
        self._opened = False

    def open(self, settings: Mapping[str, Any], *, restart: bool) -> None:
        """Make the folder, or find in it what the same healing has left.

        TransplantError where it holds those of another healing, or of anything else.
        """
        file = self.path / _SETTINGS
        if self.path.exists() and not file.is_file() and any(self.path.iterdir()):
            raise TransplantError(
                f"{self.path}, where the healing keeps its checkpoints, holds something else. Move "
                "it away, or name another output."
            )
        if restart and self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._opened = True
        # Its state is written last: without one, the process was killed while it wrote.
        for folder in self._all().values():
            if not _whole(folder):
                shutil.rmtree(folder)
        if file.is_file() and self.last():
            others = read_json(file, dict, _AGAIN)
            changed = [key for key in settings if others.get(key) != settings[key]]
            if changed:
                raise TransplantError(
                    f"{self.path} holds an unfinished healing with another {_listed(changed)}. Give "
                    "the same to go on with it, or begin anew with --restart."
                )
        else:
            file.write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")

    def last(self) -> tuple[int, Path] | None:
        """The step of the last checkpoint, and its folder."""
        found = {step: folder for step, folder in self._all().items() if _whole(folder)}
        return max(found.items()) if found else None

    def close(self) -> None:
        """Remove the folder where no checkpoint was reached, and there is nothing to go on from."""
        if self._opened and self.last() is None:
            self.remove()

    def remove(self) -> None:
        """Remove the folder, when it has done its work."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _all(self) -> dict[int, Path]:
        if not self.path.is_dir():
            return {}
        matched = ((_CHECKPOINT.fullmatch(path.name), path) for path in self.path.iterdir())
        return {int(found[1]): path for found, path in matched if found}


def digest(parts: list[str]) -> str:
    """A short name for a list of texts."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8")
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()[:16]


def _whole(folder: Path) -> bool:
    try:
        read_json(folder / _STATE, dict)
    except TransplantError:
        return False
    return True


def _listed(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"
