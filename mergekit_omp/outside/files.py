"""Files that other tools wrote, or that people edited: bounded in size, and of the shape expected.

Whatever is wrong with one is a `TransplantError` that names the file and the place in it.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from mergekit_omp.errors import TransplantError
from mergekit_omp.outside.faults import reason

T = TypeVar("T")
LARGEST = 256 << 20
"""Bytes of the largest JSON file that is read: the longest tokenizers take 40 MB."""
LARGEST_SETTINGS = 8 << 20
"""Bytes of the largest file of settings."""
_DEEPEST = 100
"""Levels of objects and lists within each other."""
_CHECK = "Check that the file is whole."


def read_text(path: str | os.PathLike[str], remedy: str = _CHECK, *, largest: int = LARGEST) -> str:
    """A file of UTF-8 text."""
    file = Path(path)
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            # To read from a pipe is to wait for whoever writes to it.
            raise TransplantError(f"{file} is no file that can be read. {remedy}")
        size = found.st_size
        if size > largest:
            raise TransplantError(
                f"{file} has {size} bytes, and at most {largest} are read. {remedy}"
            )
        return file.read_bytes().decode("utf-8")
    except OSError as error:
        raise TransplantError(
            f"{file} cannot be read ({error.strerror or error}). {remedy}"
        ) from error
    except UnicodeDecodeError as error:
        raise TransplantError(f"{file} is not UTF-8 text (byte {error.start}). {remedy}") from error


def read_json(
    path: str | os.PathLike[str],
    schema: type[T],
    remedy: str = _CHECK,
    *,
    largest: int = LARGEST,
) -> T:
    """A JSON file as `schema`, which may be anything that pydantic validates."""
    text = read_text(path, remedy, largest=largest)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TransplantError(f"{path} is not JSON ({reason(error)}). {remedy}") from error
    if len(text) <= LARGEST_SETTINGS and _deeper(content, _DEEPEST):
        raise TransplantError(f"{path} is nested more than {_DEEPEST} levels deep. {remedy}")
    return validated(path, content, schema, remedy)


def _deeper(content: Any, levels: int) -> bool:
    """Whether there are more levels than so many; level by level, so that depth is no matter."""
    level = [content]
    for _ in range(levels):
        inner = [list(one.values()) if isinstance(one, dict) else one for one in level]
        level = [
            part
            for parts in inner
            if isinstance(parts, list)
            for part in parts
            if isinstance(part, (dict, list))
        ]
        if not level:
            return False
    return True


def validated(path: str | os.PathLike[str], content: Any, schema: type[T], remedy: str) -> T:
    """What a file held, as `schema`."""
    try:
        return pydantic.TypeAdapter(schema).validate_python(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        found = repr(first["input"])
        found = found if len(found) <= 60 else f"{found[:60]}..."
        raise TransplantError(
            f"{path}: {place} is not what it should be ({first['msg']}; found {found}). {remedy}"
        ) from error


def read_yaml(path: str | os.PathLike[str], remedy: str = _CHECK) -> Any:
    """A YAML file, whatever it holds."""
    return parsed_yaml(path, read_text(path, remedy), remedy)


def parsed_yaml(path: str | os.PathLike[str], text: str, remedy: str = _CHECK) -> Any:
    """The YAML that a file held."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TransplantError(f"{path} is not YAML ({reason(error)}). {remedy}") from error
