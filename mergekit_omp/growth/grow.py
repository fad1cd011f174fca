"""Grow a finished model by tables of n-grams, so that it says what it said before.

The source's weights are copied as files and new tensors are written beside them, all in a stage
within the output directory, which is published when the check has passed.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mergekit_omp.errors import TransplantError
from mergekit_omp.growth.card import with_growth
from mergekit_omp.growth.check import check_equal, check_tokenizer
from mergekit_omp.growth.restore import RestoreSettings, restored
from mergekit_omp.growth.settings import TableSettings, settings_entry
from mergekit_omp.growth.shards import NewTensor, copy_file, grouped, write_tensors
from mergekit_omp.growth.source import SourceModel, config_text, open_source
from mergekit_omp.outside.files import read_text
from mergekit_omp.transplant.staging import HIDDEN, OutputDirectory, disk_errors, is_interrupted
from mergekit_omp.vocabulary.lost import SAMPLE

RECORD = "growth.json"
CODE = ("over_encoding.py", "over_decoding.py", "ngrams.py")
"""The files of the model class, which every output has."""


@dataclass(frozen=True)
class Growth:
    """What is added to a model."""

    source: SourceModel
    entry: dict[str, Any]
    """`over_encoding` of the output's config.json."""
    tensors: list[NewTensor]
    settings: dict[str, Any]
    """Of the tables."""
    hit: float | None = None
    """The share of a text's positions that get a row of the base."""

    @property
    def parameters(self) -> int:
        """Numbers that can be trained."""
        floats = [t for t in self.tensors if t.dtype.is_floating_point]
        return sum(t.size // t.dtype.itemsize for t in floats)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(tensor.size for tensor in self.tensors)


def plan(
    name: str,
    tables: TableSettings | None,
    restore: RestoreSettings | None = None,
    further_heads: int = 0,
) -> Growth:
    """What growing the model would add. TransplantError where it cannot be grown."""
    source = open_source(name)
    entry = settings_entry(source.class_name, source.rows, tables)
    if source.embed_scale != 1:
        entry["embed_scale"] = source.embed_scale
    tensors = _tables(source, entry, tables) if tables else []
    hit = None
    if restore:
        found = restored(source, restore)
        entry["exact"], hit = found.entry, found.hit
        tensors += found.tensors(source.dtype)
    if further_heads:
        entry["heads"] = {"heads": further_heads, "weight": 0.1, "bias": bool(source.head_bias)}
        tensors += _heads(source, further_heads, tables.seed if tables else 0)
    return Growth(source, entry, tensors, asdict(tables) if tables else {}, hit)


def _heads(source: SourceModel, count: int, seed: int) -> list[NewTensor]:
    """Copies of the head, each behind a residual block that adds nothing yet."""
    if source.head is None:
        raise TransplantError(
            f"{source.name} has no head of its own that could be copied ({source.class_name}). Leave "
            "out --over-decoding."
        )
    places = {name: file for file, names in source.shards.items() for name in names}
    generator = torch.Generator().manual_seed(seed + 1)
    square, dim = (source.dim, source.dim), (source.dim,)
    copies: list[tuple[str, str, tuple[int, ...]]] = [
        (source.head, "weight", (source.rows, source.dim))
    ]
    if source.head_bias:
        copies.append((source.head_bias, "bias", (source.rows,)))
    tensors: list[NewTensor] = []
    for i in range(count):
        before, dtype = f"over_decoding.heads.{i}", source.dtype
        values = torch.randn(square, generator=generator) * source.dim**-0.5
        tensors += [
            NewTensor(f"{before}.inner.weight", square, dtype, values),
            NewTensor(f"{before}.inner.bias", dim, dtype),
            NewTensor(f"{before}.outer.weight", square, dtype),
            NewTensor(f"{before}.outer.bias", dim, dtype),
        ]
        for stored, part, shape in copies:
            origin = (source.folder / places[stored], stored)
            tensors.append(NewTensor(f"{before}.head.{part}", shape, dtype, copy_of=origin))
    return tensors


def _tables(source: SourceModel, entry: dict[str, Any], settings: TableSettings) -> list[NewTensor]:
    """Zero tables, and projections by which they can learn."""
    generator = torch.Generator().manual_seed(settings.seed)
    tensors: list[NewTensor] = []
    for i, table in enumerate(entry["tables"]):
        values = torch.randn(source.dim, settings.width, generator=generator)
        tensors += [
            NewTensor(
                f"over_encoding.tables.{i}.weight", (table["rows"], settings.width), source.dtype
            ),
            NewTensor(
                f"over_encoding.projections.{i}.weight",
                (source.dim, settings.width),
                source.dtype,
                values * settings.width**-0.5,
            ),
        ]
    return tensors


def check_destination(out: str) -> None:
    """Refuse an output directory that holds anything: growing writes over nothing."""
    if os.path.lexists(out) and (not os.path.isdir(out) or set(os.listdir(out)) - {HIDDEN}):
        if is_interrupted(out):
            raise TransplantError(
                f"{out} has files of a run that was killed, or is still running. Remove the folder, "
                "or name another."
            )
        raise TransplantError(f"{out} is there already. Name a new or an empty folder.")


def write(growth: Growth, out: str, *, progress: bool, told: Callable[[str], None]) -> None:
    """Write the grown model into a new folder, whole or not at all."""
    check_destination(out)
    directory = OutputDirectory(out)
    directory.open()
    stage = Path(directory.stage)
    try:
        _check_room(out, stage, growth.size)
        with disk_errors(out):
            size = growth.source.size + growth.size
            with tqdm(
                total=size, unit="B", unit_scale=True, desc="Writing", disable=not progress
            ) as bar:
                _write_weights(growth, stage, bar.update)
            _write_others(growth, stage)
        told("Comparing logits with the model's own.")
        check_tokenizer(growth.source.folder, stage, SAMPLE)
        checked = check_equal(
            growth.source.class_name, growth.source.folder, stage, growth.source.rows
        )
        with disk_errors(out):
            _write_record(growth, stage, checked)
        # Another may have written there meanwhile.
        check_destination(out)
        directory.publish()
    finally:
        directory.close()
    beside = " where no row was given back" if growth.hit is not None else ""
    told(f"Logits of {checked} tokens are equal to the bit{beside}.")


def _check_room(out: str, stage: Path, size: int) -> None:
    """Refuse what cannot fit before a disk is full of it. Copied files may share their blocks."""
    free = shutil.disk_usage(stage).free
    if size > free:
        raise TransplantError(
            f"There is no room in {out}: {size / 1e6:,.1f} MB are added, and {free / 1e6:,.1f} MB are "
            "free. Name another folder, or fewer --rows."
        )


def _write_weights(growth: Growth, stage: Path, told: Callable[[int], object]) -> None:
    added = grouped(growth.tensors)
    count = len(growth.source.shards) + len(added)
    places: dict[str, str] = {}
    names = iter(f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1))
    for old, held in growth.source.shards.items():
        name = next(names)
        copy_file(growth.source.folder / old, stage / name, told)
        places.update(dict.fromkeys(held, name))
    for tensors in added:
        name = next(names)
        write_tensors(stage / name, tensors, told)
        places.update(dict.fromkeys((tensor.name for tensor in tensors), name))
    size = sum(path.stat().st_size for path in stage.glob("*.safetensors"))
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (stage / "model.safetensors.index.json").write_text(
        json.dumps(index, indent=2) + "\n", encoding="utf-8"
    )


def _write_others(growth: Growth, stage: Path) -> None:
    for path in growth.source.other_files():
        (stage / path).parent.mkdir(exist_ok=True)
        copy_file(growth.source.folder / path, stage / path, lambda count: None)
    # Last: a file of the same name in the source is of another model.
    for name in CODE:
        shutil.copyfile(Path(__file__).with_name(name), stage / name)
    (stage / "config.json").write_text(config_text(growth.source, growth.entry), encoding="utf-8")


def _write_record(growth: Growth, stage: Path, checked: int) -> None:
    record = {
        "version": importlib.metadata.version("mergekit-omp"),
        "name": os.path.basename(os.path.normpath(growth.source.name))
        if os.path.isdir(growth.source.name)
        else growth.source.name,
        "parameters": growth.parameters,
        "bytes": growth.size,
        "width": growth.entry["width"],
        "tables": growth.entry["tables"],
        "settings": growth.settings,
        "checked_tokens": checked,
    }
    if "heads" in growth.entry:
        record["further_heads"] = growth.entry["heads"]["heads"]
    if growth.hit is not None:
        record["restored"] = growth.entry["exact"]["entries"]
        record["share"] = growth.entry["exact"]["share"]
        record["hit"] = growth.hit
    (stage / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    readme = growth.source.folder / "README.md"
    card = read_text(readme) if readme.is_file() else None
    (stage / "README.md").write_text(with_growth(card, record), encoding="utf-8")
