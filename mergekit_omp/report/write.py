"""Writes a report to its file, and over nothing but an earlier report."""

from __future__ import annotations

from pathlib import Path

import mergekit.plan  # noqa: F401 (the plugin activates when this is imported)
import transformers
from mergekit.options import MergeOptions

from mergekit_omp.errors import TransplantError
from mergekit_omp.report.build import build_report
from mergekit_omp.report.figures import require_matplotlib
from mergekit_omp.report.markdown import markdown_text
from mergekit_omp.report.out_dir import OutDir
from mergekit_omp.report.page import GENERATOR, page
from mergekit_omp.report.sections import Wanted

_NAME = "tokenizer_transplant"
_HEAD = 2000
"""A report names its generator within so many characters of its start."""


def write_report(
    out_dir: Path,
    output: Path | None,
    *,
    markdown: bool = False,
    compare: bool = False,
    hidden: int = 300,
    trust_remote_code: bool = False,
) -> Path:
    """Reports on `out_dir`; where the report was written.

    Args:
        out_dir: the output directory of a merge.
        output: the file to write, or None for one in `out_dir`.
        markdown: Markdown instead of HTML.
        compare: whether every method goes through the held-out check.
        hidden: tokens to hide for that check, at most.
        trust_remote_code: as in the merge.

    Raises:
        TransplantError: `out_dir` is no whole output, matplotlib is missing, or `output` is a file
            that is not an earlier report.
    """
    if not markdown:
        require_matplotlib()
    out = OutDir.open(out_dir)
    path = output or out_dir / f"{_NAME}.{'md' if markdown else 'html'}"
    check_path(path, "--output")
    transformers.utils.logging.set_verbosity_error()
    options = MergeOptions(quiet=True, trust_remote_code=trust_remote_code)
    report = build_report(out, options, Wanted(hidden, compare))
    written = markdown_text(report) if markdown else page(report)
    write_page(path, written)
    return path


def write_page(path: Path, text: str) -> None:
    """Write a report. TransplantError where the disk does not let it."""
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise TransplantError(f"The report cannot be written: {error}.") from error


def check_path(path: Path, option: str) -> None:
    """Refuse to write over what is not an earlier report; `option` names another file."""
    if path.is_dir():
        raise TransplantError(f"{path} is a directory. Name a file with {option}.")
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        if GENERATOR in file.read(_HEAD):
            return
    raise TransplantError(
        f"{path} exists and is not a report of mergekit-omp. Name another file with {option}."
    )
