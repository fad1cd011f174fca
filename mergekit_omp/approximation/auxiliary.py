"""Word vectors from a file, in place of the donor's rows (what WECHSEL, FOCUS and CLP publish).

Files: the text format of fastText and word2vec (`.vec`, `.vec.gz`: a line `count dimension`,
then a word and its numbers on each line), or `.safetensors` with one vector under each token's
text.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float32
from pydantic import AfterValidator
from safetensors import SafetensorError, safe_open
from torch import Tensor


def load_vectors(
    path: str, tokens: Sequence[bytes | None]
) -> tuple[Float32[Tensor, "tokens dim"], Bool[Tensor, "tokens"]]:
    """A vector for each token, and which tokens have one that is finite and not zero.

    A token is looked up by its text as it stands, a space written ` ` or `▁` as the file may
    have it, then by its text without surrounding whitespace, as the original methods do.
    Control tokens (None) and bytes that are not UTF-8 have no vector. Raises ValueError if the
    file is not there, cannot be read, or has a vector for none of the tokens.
    """
    spellings = [_spellings(token) for token in tokens]
    found = _read(path, {word for words in spellings for word in words})
    if not found:
        raise ValueError(
            f"auxiliary vectors {path}: none of the {len(tokens)} tokens looked up is in the file; "
            "give a file whose words are in the language of the tokenizer"
        )
    dim = len(next(iter(found.values())))
    vectors = torch.zeros((len(tokens), dim))
    for i, words in enumerate(spellings):
        for word in words:
            if word in found:
                vectors[i] = torch.from_numpy(found[word])
                break
    usable = torch.isfinite(vectors).all(1) & (vectors != 0).any(1)
    vectors[~usable] = 0
    return vectors, usable


def _spellings(token: bytes | None) -> list[str]:
    """The words under which a token's vector may be found, the most exact first."""
    if token is None:
        return []
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        return []
    words = (text, text.replace(" ", "▁"), text.strip())
    return [word for word in dict.fromkeys(words) if word]


def check_file(path: str) -> str:
    """`path`, if a file is there whose ending tells a format that can be read; else ValueError."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(
            f"auxiliary vectors {path}: there is no such file; write the path of a .vec, .vec.gz "
            "or .safetensors file"
        )
    if not file.name.endswith((".vec", ".vec.gz", ".safetensors")):
        raise ValueError(
            f"auxiliary vectors {path}: the format is told by the ending, and "
            f"{file.suffix or file.name!r} is none of .vec, .vec.gz and .safetensors; save vectors "
            "in one of these"
        )
    return path


VectorsFile = Annotated[str, AfterValidator(check_file)]
"""The path of a file of vectors, which must exist when it is named."""


def _read(path: str, wanted: set[str]) -> dict[str, np.ndarray]:
    file = Path(check_file(path)).expanduser()
    try:
        if file.suffix == ".safetensors":
            return _read_safetensors(file, wanted)
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            return _read_text(path, stream, wanted)
    except (OSError, EOFError, SafetensorError) as error:
        raise ValueError(f"auxiliary vectors {path} cannot be read: {error}") from error


def _read_safetensors(file: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    found = {}
    with safe_open(file, framework="pt") as tensors:
        for word in tensors.keys():  # noqa: SIM118 (not a mapping)
            if word in wanted:
                found[word] = tensors.get_tensor(word).float().numpy()
    shapes = sorted({vector.shape for vector in found.values()})
    if any(len(shape) != 1 for shape in shapes) or len(shapes) > 1:
        raise ValueError(
            f"auxiliary vectors {file}: tensors of the shapes {', '.join(map(str, shapes))}; "
            "store one vector under each token, all of one length"
        )
    return found


def _read_text(path: str, lines: Iterator[bytes], wanted: set[str]) -> dict[str, np.ndarray]:
    header = next(lines, b"").split()
    if len(header) != 2 or not all(part.isdigit() for part in header):
        raise ValueError(
            f"auxiliary vectors {path}: line 1 is not `count dimension`; save them in the text "
            "format of fastText or word2vec"
        )
    dim = int(header[1])
    sought = {word.encode() for word in wanted}
    found: dict[str, np.ndarray] = {}
    for number, line in enumerate(lines, start=2):
        word, *values = _split(line, dim)
        if word not in sought or word.decode() in found:
            continue
        try:
            vector = np.array(values, dtype="S").astype(np.float32)
        except ValueError:
            vector = np.empty(0, dtype=np.float32)
        if len(vector) != dim:
            raise ValueError(
                f"auxiliary vectors {path}: line {number} is not a word and {dim} numbers, as "
                "line 1 promises"
            )
        found[word.decode()] = vector
    return found


def _split(line: bytes, dim: int) -> list[bytes]:
    # From the right, since a word of word2vec may hold spaces.
    return line.rstrip(b" \r\n").rsplit(b" ", dim)
