"""Files of weights that are copied whole, and new ones that are written piece by piece.

New tensors are mostly zeros, and may be larger than memory: no tensor is ever held whole. The
format is that of safetensors: a length, a JSON header, the numbers.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import safetensors
import torch
from torch import Tensor

SHARD = 5 << 30
_PIECE = 16 << 20
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}
_NO_SHORT_CUT = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)


@dataclass(frozen=True)
class NewTensor:
    """A tensor that growth adds: `values`, a copy of a stored tensor, or else zeros."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    values: Tensor | None = None
    copy_of: tuple[Path, str] | None = None
    """A file of safetensors, and the tensor in it."""

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def pieces(self) -> Iterable[bytes | memoryview]:
        """Its bytes, in order."""
        if self.values is not None:
            flat = self.values.to(self.dtype).contiguous().flatten().view(torch.uint8)
            yield flat.numpy().data
            return
        if self.copy_of is not None:
            file, name = self.copy_of
            with safetensors.safe_open(file, framework="pt") as opened:
                stored = opened.get_slice(name)
                step = max(1, _PIECE * self.shape[0] // self.size)
                for begin in range(0, self.shape[0], step):
                    part = stored[begin : begin + step].to(self.dtype).contiguous()
                    yield part.flatten().view(torch.uint8).numpy().data
            return
        zeros = bytes(min(_PIECE, self.size))
        for begin in range(0, self.size, _PIECE):
            yield memoryview(zeros)[: self.size - begin]


def grouped(tensors: list[NewTensor]) -> list[list[NewTensor]]:
    """Tensors in files of at most 5 GiB, or one tensor each."""
    groups: list[list[NewTensor]] = []
    for tensor in tensors:
        if groups and sum(t.size for t in groups[-1]) + tensor.size <= SHARD:
            groups[-1].append(tensor)
        else:
            groups.append([tensor])
    return groups


def write_tensors(path: Path, tensors: list[NewTensor], told: Callable[[int], object]) -> None:
    """One file of safetensors; `told` hears of bytes written."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.size
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for piece in tensor.pieces():
                told(file.write(piece))


def copy_file(source: Path, target: Path, told: Callable[[int], object]) -> None:
    """A file as it is, by the system where that can: it may share the blocks and read nothing."""
    with open(source, "rb") as old, open(target, "xb") as new:
        if hasattr(os, "copy_file_range"):
            try:
                while count := os.copy_file_range(old.fileno(), new.fileno(), 64 * _PIECE):
                    told(count)
            except OSError as error:
                if error.errno not in _NO_SHORT_CUT:
                    raise
                # What was copied is behind both; the rest follows below.
                old.seek(os.lseek(old.fileno(), 0, os.SEEK_CUR))
        before = new.tell()
        shutil.copyfileobj(old, new, _PIECE)
        told(new.tell() - before)
    shutil.copymode(source, target)
