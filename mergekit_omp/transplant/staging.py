"""Writes an output so that its directory never holds a model that is half old and half new.

A merge is written into a hidden directory inside the output directory, on the same file system,
and moved out of it once it is whole. `config.json` goes first and comes last: without it no reader
loads the directory, so that a merge which is killed in between leaves nothing that could be taken
for a model. Moving replaces names and writes through no link.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch

from mergekit_omp.errors import TransplantError
from mergekit_omp.record.record import FILE_NAME

try:
    import fcntl
except ImportError:  # Windows has no such locks: two merges into one directory are not told apart.
    fcntl = None  # type: ignore[assignment]

LOG = logging.getLogger(__name__)

HIDDEN = ".mergekit-omp"
_LOCK, _NEW, _OLD = "lock", "new", "old"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# By which a reader knows a model, before anything else: gone first, back last.
_FIRST_GONE = ("config.json", "tokenizer_config.json", "model.safetensors.index.json")
_LAST_BACK = (
    *("tokenizer_config.json", "generation_config.json"),
    *("tokenizer_transplant.npz", FILE_NAME, "config.json"),
)
# What transformers, mergekit, GGUF conversion, vLLM and PEFT look for in a model's directory.
_READ = (
    *("config.json", "generation_config.json", "mergekit_config.yml"),
    *("model*.safetensors", "pytorch_model*.bin", "consolidated*.safetensors"),
    *("*.safetensors.index.json", "pytorch_model*.bin.index.json"),
    *("tf_model*.h5", "flax_model*.msgpack", "model*.gguf.tmp"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model*", "vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "*.tiktoken"),
    *("spiece.model", "sentencepiece*.model", "source.spm", "target.spm", "tekken.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates"),
    *("output_tokenizer.py", "tokenizer_transplant.*"),
)
# The same of plain merges and older outputs, which do not say what they wrote.
_ONCE_COPIED = (
    *("preprocessor_config.json", "processor_config.json", "image_processor_config.json"),
    *("video_preprocessor_config.json",),
)


class OutputDirectory:
    """Where one merge is written: `stage` until it is whole, `path` afterwards."""

    def __init__(self, path: str):
        self.path = path
        self.hidden = os.path.join(path, HIDDEN)
        # The last name is the output's own: mergekit calls the model by it. It may be any.
        self.stage = os.path.join(self.hidden, _NEW, os.path.basename(os.path.abspath(path)))
        self._lock: int | None = None
        self._made = False
        self._kept = False

    def open(self) -> None:
        """Make an empty stage, with this merge alone in the directory. What a killed merge has left
        is removed.

        Raises TransplantError where another merge is running, or nothing can be written.
        """
        self._made = not os.path.isdir(self.path)
        try:
            os.makedirs(self.path, exist_ok=True)
            if os.path.islink(self.hidden):
                os.unlink(self.hidden)
            self._lock = self._locked()
            for name in os.listdir(self.hidden):
                if name != _LOCK:
                    _remove(os.path.join(self.hidden, name))
            os.makedirs(self.stage)
        except OSError as error:
            self.close()
            raise TransplantError(
                f"Nothing can be written into {self.path} ({error.strerror or error}). Name "
                "another output directory."
            ) from error

    def close(self) -> None:
        """Remove the stage and give the directory free; an output directory made for it too."""
        if self._lock is None and not self._made:
            return
        if self._lock is not None and self._kept:
            os.close(self._lock)
            self._lock = None
        elif self._lock is not None:
            # The lock itself goes last: who waits for it must find nothing half removed.
            with suppress(OSError):
                for name in os.listdir(self.hidden):
                    if name != _LOCK:
                        _remove(os.path.join(self.hidden, name))
            _remove(os.path.join(self.hidden, _LOCK))
            with suppress(OSError):
                os.rmdir(self.hidden)
            os.close(self._lock)
            self._lock = None
        if self._made:
            # Only where it is empty, as after a merge that failed.
            with suppress(OSError):
                os.rmdir(self.path)

    def publish(self) -> None:
        """Put the whole new model in the place of the old one.

        Where that fails, the old one stays.
        """
        gone = self._of_the_earlier_merge()
        new = sorted(os.listdir(self.stage), key=_position)
        old = os.path.join(self.hidden, _OLD)
        os.mkdir(old)
        moved: list[tuple[str, str]] = []
        try:
            for name in sorted({*gone, *new}, key=_departure):
                if os.path.lexists(os.path.join(self.path, name)):
                    moved.append((os.path.join(self.path, name), os.path.join(old, name)))
                    os.rename(*moved[-1])
            for name in new:
                moved.append((os.path.join(self.stage, name), os.path.join(self.path, name)))
                os.rename(*moved[-1])
        except BaseException:
            # Should even that fail, what is hidden is all there is of the old model.
            self._kept = True
            for source, target in reversed(moved):
                if os.path.lexists(target) and not os.path.lexists(source):
                    os.rename(target, source)
            self._kept = False
            raise
        self._made = False

    def _of_the_earlier_merge(self) -> list[str]:
        """What is there of an earlier merge that a reader would take; the user's own files stay."""
        listed = _written_by(self.path)
        patterns = _READ if listed is not None else (*_READ, *_ONCE_COPIED)
        held = [name for name in os.listdir(self.path) if name != HIDDEN]
        return [
            name
            for name in held
            if name in (listed or ())
            or any(fnmatch(name, pattern) for pattern in patterns)
            or (name == "README.md" and _is_a_card(os.path.join(self.path, name)))
        ]

    def _locked(self) -> int:
        """A descriptor that holds the lock until it is closed, or its process is gone."""
        path = os.path.join(self.hidden, _LOCK)
        while True:
            os.makedirs(self.hidden, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o644)
            if fcntl is None:
                return descriptor
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                raise TransplantError(
                    f"Another merge is running into {self.path}. Wait for it, or name another "
                    "output directory."
                ) from error
            # Its holder may have removed the file just before.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                    return descriptor
            os.close(descriptor)


def destination(stage: str) -> str:
    """The output directory that a merge into `stage` is for; any other path is its own."""
    hidden = os.path.dirname(os.path.dirname(stage))
    return os.path.dirname(hidden) if os.path.basename(hidden) == HIDDEN else stage


def is_interrupted(path: str) -> bool:
    """Whether a merge into this directory was killed, or is running."""
    return os.path.isdir(os.path.join(path, HIDDEN))


@contextmanager
def disk_errors(path: str) -> Iterator[None]:
    """Say in one sentence that there is no room; safetensors tells so in words alone."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in _FULL
        if not full and not any(os.strerror(code) in str(error) for code in _FULL):
            raise
        raise TransplantError(
            f"There is no room for the output in {path} ({error}); nothing of it is kept. A merge "
            "needs as much as its weights take, beside an earlier output until that is replaced."
        ) from error


def _departure(name: str) -> tuple[int, str]:
    return (_FIRST_GONE.index(name) if name in _FIRST_GONE else len(_FIRST_GONE), name)


def _position(name: str) -> tuple[int, str]:
    return (_LAST_BACK.index(name) + 1 if name in _LAST_BACK else 0, name)


def _written_by(path: str) -> list[str] | None:
    """The files that the earlier merge says it wrote; None where it does not say."""
    with suppress(OSError, ValueError):
        with open(os.path.join(path, FILE_NAME), encoding="utf-8") as file:
            listed = json.load(file).get("files")
        if isinstance(listed, list):
            return [name for name in listed if isinstance(name, str)]
    return None


def _is_a_card(path: str) -> bool:
    """Whether a README is the model card of a merge."""
    with suppress(OSError, UnicodeDecodeError), open(path, encoding="utf-8") as file:
        return "merge of pre-trained language models created using [mergekit]" in file.read()
    return False


def _remove(path: str) -> None:
    """Remove a file, a link or a directory; never what a link points to."""
    with suppress(FileNotFoundError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
