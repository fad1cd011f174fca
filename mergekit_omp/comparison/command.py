"""`mergekit-omp compare`, from the files that are named to the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import mergekit.plan  # noqa: F401 (the plugin activates when this is imported)
from mergekit.options import MergeOptions

from mergekit_omp.comparison.compare import Asked, compare, one_after_the_other
from mergekit_omp.comparison.on_ray import OnRay
from mergekit_omp.evaluation.documents import files_in, read_documents
from mergekit_omp.evaluation.evaluate import ReadingOptions
from mergekit_omp.evaluation.models import Loading
from mergekit_omp.outside.files import read_yaml


def run(
    config_file: str,
    texts: Sequence[Path],
    asked: Sequence[tuple[str, str, Mapping[str, Any]]],
    *,
    merge_options: MergeOptions,
    split: str,
    context: int | None,
    stride: int | None,
    batch_size: int | None,
    device: str,
    dtype: str,
    ray: str | None,
) -> dict[str, Any]:
    """The result of comparing `asked` (names, methods, settings); see `compare`."""
    merge_options.apply_global_options()
    quiet = merge_options.quiet

    def tell(message: str) -> None:
        if not quiet:
            click.echo(message, err=True)

    content = read_yaml(config_file, "Name the config of a merge.")
    loading = Loading(device, dtype, merge_options.trust_remote_code)
    if ray is None:
        loading.torch_device()
    files = files_in(texts)
    read = read_documents(files, split)
    result = compare(
        content,
        config_file,
        read.documents,
        [Asked(*words) for words in asked],
        options=merge_options,
        loading=loading,
        reading=ReadingOptions(context, stride, batch_size, progress=not quiet),
        run=one_after_the_other if ray is None else OnRay(ray),
        warn=lambda message: tell(f"Warning: {message}"),
        tell=tell,
    )
    result["text"] = {
        "files": [str(path) for path in files],
        "split": read.split,
        **result["text"],
    }
    return result
