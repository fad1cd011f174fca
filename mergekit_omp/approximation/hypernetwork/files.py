"""The files of a hypernetwork, in a folder or on the Hugging Face hub.

Tensors are read one by one, by name: a published file holds 2 GB that nothing here reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    NotASafetensorsRepoError,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FLOATING = ("F64", "F32", "F16", "BF16")
_BLOCK = 2**24

Shape = tuple[int, ...]


class Place:
    """Where a hypernetwork is: a folder, or `owner/name[@revision]` on the hub."""

    def __init__(self, source: str):
        """Raises ValueError where `source` can be neither."""
        self.source = source
        self.folder = Path(source).expanduser()
        self.remote = not self.folder.is_dir()
        self.repository, _, revision = source.partition("@")
        self.revision = revision or None
        if self.remote and (source[:1] in "/.~" or self.repository.count("/") != 1):
            raise ValueError(
                f"hypernetwork {source}: there is no such folder, and it is no id of the Hugging "
                "Face hub; write a folder that holds config.json, tokenizer.json and "
                "model.safetensors, or owner/name, or owner/name@revision"
            )

    def name(self, file: str) -> str:
        """A file's name in messages."""
        return f"{file} of the hypernetwork {self.source}"

    def here(self, file: str) -> Path | None:
        """A file, if it is in the folder or was downloaded before."""
        if not self.remote:
            found = self.folder / file
            return found if found.is_file() else None
        cached = huggingface_hub.try_to_load_from_cache(
            self.repository, file, revision=self.revision
        )
        return Path(cached) if isinstance(cached, str) else None

    def path(self, file: str) -> Path:
        """A file, downloaded where it has to be. Raises ValueError where it cannot be had."""
        if self.remote:
            return self._download(file)
        found = self.here(file)
        if found is None:
            raise self._lacks(file)
        return found

    def text(self, file: str) -> str:
        """The content of a text file. Raises ValueError where it cannot be read."""
        path = self.path(file)
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.name(file)} cannot be read: {error}") from error

    def json(self, file: str) -> dict[str, Any]:
        """The content of a JSON file. Raises ValueError where it holds no object."""
        try:
            found = json.loads(self.text(file))
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.name(file)}: expected JSON; found {error}") from error
        if not isinstance(found, dict):
            raise ValueError(
                f"{self.name(file)}: expected an object; found a {type(found).__name__}"
            )
        return found

    def commit(self) -> str | None:
        """The revision that the hub resolved; None for a folder."""
        return self.path(CONFIG).parent.name if self.remote else None

    def weight_files(self) -> dict[str, Path]:
        """The path of the file of every tensor. Raises ValueError where it cannot be had."""
        if self.here(WEIGHTS) is None and (self.here(INDEX) or self._has_index()):
            names = self.json(INDEX).get("weight_map")
            if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
                raise ValueError(
                    f"{self.name(INDEX)}: weight_map must name the file of each tensor; "
                    f"found {names!r:.80}"
                )
            paths = {file: self.path(file) for file in sorted(set(names.values()))}
            return {tensor: paths[file] for tensor, file in names.items()}
        path = self.path(WEIGHTS)
        return dict.fromkeys(_headers(path, self.name(WEIGHTS)), path)

    def headers(self) -> dict[str, tuple[Shape, str]]:
        """Shape and type of every tensor, without downloading one.

        Raises ValueError where they cannot be had.
        """
        if not self.remote or self.here(WEIGHTS) or self.here(INDEX):
            return self.stored(self.weight_files())
        try:
            found = huggingface_hub.get_safetensors_metadata(
                self.repository, revision=self.revision
            )
        except NotASafetensorsRepoError as error:
            raise self._lacks(WEIGHTS) from error
        except (HfHubHTTPError, OSError) as error:
            raise self._unreachable(error) from error
        return {
            name: (tuple(tensor.shape), tensor.dtype)
            for file in found.files_metadata.values()
            for name, tensor in file.tensors.items()
        }

    def stored(self, files: Mapping[str, Path]) -> dict[str, tuple[Shape, str]]:
        """Shape and type of the tensors that `files` hold."""
        found: dict[str, tuple[Shape, str]] = {}
        for path in dict.fromkeys(files.values()):
            found |= _headers(path, self.name(path.name))
        return found

    def _has_index(self) -> bool:
        if not self.remote:
            return False
        try:
            huggingface_hub.hf_hub_download(self.repository, INDEX, revision=self.revision)
        except EntryNotFoundError:
            return False
        except (HfHubHTTPError, OSError) as error:
            raise self._unreachable(error) from error
        return True

    def _download(self, file: str) -> Path:
        try:
            return Path(
                huggingface_hub.hf_hub_download(self.repository, file, revision=self.revision)
            )
        except LocalEntryNotFoundError as error:
            raise self._unreachable(error) from error
        except EntryNotFoundError as error:
            raise self._lacks(file) from error
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise self._unreachable(error) from error

    def _lacks(self, file: str) -> ValueError:
        found = "none"
        if not self.remote:
            found = ", ".join(sorted(path.name for path in self.folder.iterdir())) or "none"
        hint = "; weights are read from safetensors alone" if file == WEIGHTS else ""
        return ValueError(
            f"hypernetwork {self.source}: expected a file {file}; found {found}{hint}"
        )

    def _unreachable(self, error: Exception) -> ValueError:
        reason = str(error).strip().split("\n")[0]
        return ValueError(
            f"hypernetwork {self.source}: it is no folder, and cannot be had from the Hugging "
            f"Face hub ({reason})"
        )


@dataclass(frozen=True)
class Expected:
    """A tensor that a hypernetwork must have."""

    shape: Shape
    rows: int | None = None
    """How many of its first rows are read, where it may have more; None for all of it."""


class Weights:
    """The tensors of a hypernetwork, checked by their headers and read when they are needed."""

    def __init__(self, place: Place, expected: Mapping[str, Expected], *, headers_only: bool):
        """With `headers_only` no weights are downloaded, and `read` cannot be called.

        Raises ValueError, naming file and tensor, for what is missing or of another shape.
        """
        self._place = place
        self.expected = dict(expected)
        self._files = {} if headers_only else place.weight_files()
        found = place.headers() if headers_only else place.stored(self._files)
        for name, wanted in self.expected.items():
            where = place.name(self._files[name].name if name in self._files else WEIGHTS)
            if name not in found:
                raise ValueError(
                    f"{where}: expected a tensor {name} of shape {list(wanted.shape)}; found none"
                )
            _check_header(where, name, wanted, *found[name])
        self.shapes = {name: found[name][0] for name in self.expected}

    @property
    def size(self) -> int:
        """Numbers that are read."""
        return sum(
            (wanted.rows or wanted.shape[0]) * int(torch.Size(wanted.shape[1:]).numel())
            for wanted in self.expected.values()
        )

    def read(self, name: str, device: torch.device) -> Tensor:
        """One tensor in float32. Raises ValueError where it cannot be read or is not finite."""
        path, rows = self._files[name], self.expected[name].rows
        where = self._place.name(path.name)
        try:
            with safe_open(path, framework="pt") as tensors:
                found: Tensor = tensors.get_slice(name)[: rows if rows is not None else None]
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{where} cannot be read: {error}") from error
        found = found.to(device, torch.float32)
        if not found.isfinite().all():
            count = int((~found.isfinite()).sum())
            raise ValueError(
                f"{where}: expected finite numbers in {name}; found {count} of {found.numel()} "
                "that are not"
            )
        return found

    def sha256(self) -> str:
        """The hash of the weights' file; of all files one after the other, where there are more."""
        digest = hashlib.sha256()
        for path in sorted(set(self._files.values())):
            with path.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
        return digest.hexdigest()


def _headers(path: Path, name: str) -> dict[str, tuple[Shape, str]]:
    try:
        with safe_open(path, framework="pt") as tensors:
            slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118
            return {key: (tuple(s.get_shape()), s.get_dtype()) for key, s in slices.items()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error


def _check_header(where: str, name: str, wanted: Expected, shape: Shape, dtype: str) -> None:
    if wanted.rows is None:
        fits, text = shape == wanted.shape, str(list(wanted.shape))
    else:
        fits = len(shape) == len(wanted.shape) and shape[1:] == wanted.shape[1:]
        fits = fits and shape[0] >= wanted.rows
        text = f"{list(wanted.shape)} or more rows"
    if not fits:
        raise ValueError(f"{where}: {name} must be of shape {text}; found {list(shape)}")
    if dtype not in _FLOATING:
        raise ValueError(
            f"{where}: {name} must hold floating-point numbers ({', '.join(_FLOATING)}); "
            f"found {dtype}"
        )
