"""What can go wrong around a healing: outputs that are in the way, disks that are full."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mergekit_omp.errors import TransplantError
from mergekit_omp.transplant.staging import HIDDEN

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TORCH_WRITES = "PytorchStreamWriter"
"""What torch names where it cannot write a file; it does not say why."""


def check_output(out: str, healed: str) -> None:
    """Refuse an output that exists: a healing writes over nothing."""
    if os.path.exists(healed) and os.path.realpath(healed) == os.path.realpath(out):
        raise TransplantError(
            f"{healed} is the model that is to be healed. Name another output directory."
        )
    if os.path.lexists(healed) and not os.path.isdir(healed):
        raise TransplantError(f"{healed} is a file. Name a directory that does not exist yet.")
    held = (
        [name for name in sorted(os.listdir(healed)) if name != HIDDEN]
        if os.path.isdir(healed)
        else []
    )
    if held:
        raise TransplantError(
            f"{healed} is not empty: it holds {', '.join(held[:3])}{' and others' * (len(held) > 3)}. "
            "Name a directory that does not exist yet."
        )


@contextmanager
def no_room(checkpoints: Path) -> Iterator[None]:
    """A full disk as a sentence; libraries tell of it in an OSError, or in words alone."""
    try:
        yield
    except TransplantError:
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in _FULL
        told = any(os.strerror(code) in str(error) for code in _FULL)
        if not full and not told and _TORCH_WRITES not in str(error):
            raise
        raise TransplantError(
            f"There is no room to write ({str(error).splitlines()[0]}). Make room: the same command "
            f"then goes on from the last checkpoint in {checkpoints}."
        ) from error
