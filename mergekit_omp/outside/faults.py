"""Faults of libraries as sentences: a `TransplantError` for whatever one call of theirs raises.

Only a call into a library belongs inside `of_library`, never code of this project: a fault of
ours is to stay a traceback.
"""

from __future__ import annotations

import contextlib
import re
import reprlib
from collections.abc import Iterator

import pydantic

from mergekit_omp.errors import TransplantError

_TELLS_LITTLE = (KeyError, AttributeError, TypeError, IndexError, RecursionError, AssertionError)
_LONGEST = 300


@contextlib.contextmanager
def of_library(what: str, remedy: str) -> Iterator[None]:
    """Around one call of a library: "`what` (its reason). `remedy`" in place of its error."""
    try:
        yield
    except TransplantError:
        raise
    except Exception as error:  # tokenizers raises bare Exception, transformers nearly all others
        raise TransplantError(f"{what} ({reason(error)}). {remedy}") from error
    except BaseException as error:
        # What Rust code raises where it fails; it is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise TransplantError(f"{what} ({reason(error)}). {remedy}") from error


def reason(error: BaseException) -> str:
    """An error in one line, with its type where the text alone says nothing."""
    if isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        place = "".join(f"{part}: " for part in first["loc"])
        return f"{place}{first['msg']}; found {reprlib.repr(first['input'])}"
    text = " ".join(str(error).split())
    # What follows its first sentence is the library's advice, or its dump of a value.
    text = re.split(r"(?<=\w\w\.) (?=[A-Z])", text)[0]
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    text = text.rstrip(".:; ")
    if not text or isinstance(error, _TELLS_LITTLE):
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text
