"""Whether the constants of `knn`, `wechsel` and `focus` are better found from the anchors of a merge:
`python -m benchmarks.constants --pairs MiniLM:WordLlama X:Y`.

A part of the anchors is hidden from the method, for each setting on a grid, and the setting with the
least squared error of their rows is taken: of all tokens alike, or each weighted by its use (Zipf's
law). Of packages with well-trained rows it prints the squared error of other hidden tokens (of all
alike / by use), of the small models of `benchmarks/quality` bits per byte of held-out text; with the
constants as they are, and as found in these two ways, input and head apart. Beside them stands
`kriging` without `adapt`, and with its shares found in these two ways: by use is as it is.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.quality.cache import default_cache_dir
from benchmarks.quality.corpus import Document
from benchmarks.quality.packages import PACKAGES, read_real_rows
from benchmarks.quality.plans import SMALL
from benchmarks.quality.real import HIDDEN, hide
from benchmarks.quality.scoring import token_bits
from benchmarks.quality.statistics import resampled
from mergekit_omp.approximation import (
    APPROXIMATIONS,
    CodingInputs,
    MissingRows,
    Part,
    focus,
    kriging,
)
from mergekit_omp.approximation.base import Texts
from mergekit_omp.approximation.moments import finite_mean
from mergekit_omp.approximation.shares import HEAD_OF_ZIPF
from mergekit_omp.vocabulary import Alignment, Vocabulary, align

GRIDS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "knn": [
        {"k": k, "weights": weights}
        for k, weights in product((4, 8, 16, 32, 64), ("cosine", "inverse_distance"))
    ],
    "wechsel": [
        {"neighbors": n, "temperature": t}
        for n, t in product((5, 10, 20, 40), (0.03, 0.05, 0.1, 0.2))
    ],
    "focus": [{"scale": scale} for scale in (0.5, 0.7, 1.0, 1.4, 2.0, 4.0)],
}
"""`scale`: what the cosines of `focus` are multiplied by before sparsemax; 1 is as published."""
WAYS = ("as they are", "found", "found by use")


@contextmanager
def scaled(by: float) -> Iterator[None]:
    """While it holds, `focus` multiplies cosines by this."""
    own = focus._encode
    with mock.patch.object(focus, "_encode", lambda t, atoms, norms: own(t, atoms, norms / by)):
        yield


def made(
    name: str, problem: MissingRows, settings: Mapping[str, Any]
) -> Float[Tensor, "missing dim"]:
    if name == "focus":
        with scaled(settings.get("scale", 1.0)):
            return APPROXIMATIONS[name]().rows(problem)
    return APPROXIMATIONS[name](**settings).rows(problem)


def use(texts: Texts, words: Sequence[bytes | None]) -> Float[np.ndarray, " tokens"]:
    ids = {text: i for i, text in reversed(list(enumerate(texts.donor))) if text is not None}
    return 1 / (np.array([ids.get(word or b"", len(ids)) for word in words]) + HEAD_OF_ZIPF)


def found(name: str, problem: MissingRows) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The settings of least error on hidden anchors: of all alike, and by use."""
    inputs = problem.inputs
    texts = inputs.texts
    assert texts is not None and inputs.anchors is not None
    count = len(inputs.anchor_rows)
    drawn = np.random.default_rng(7).permutation(count)
    hidden, left = (
        torch.from_numpy(np.sort(part)) for part in np.split(drawn, [min(HIDDEN, count // 4)])
    )
    rows = inputs.anchor_rows[hidden]
    gone = set(rows.tolist())
    words = [texts.base[row] for row in rows.tolist()]
    base = problem.base.clone()
    base[rows] = torch.nan
    left_texts = replace(
        texts,
        missing=words,
        base=[None if row in gone else text for row, text in enumerate(texts.base)],
    )
    inner = MissingRows(
        part=problem.part,
        base=base,
        inputs=CodingInputs(
            missing=len(hidden),
            anchor_rows=inputs.anchor_rows[left],
            targets=inputs.anchors[hidden],
            anchors=inputs.anchors[left],
            donor=inputs.donor,
            texts=left_texts,
        ),
    )
    true, weights = problem.base[rows], use(texts, words)
    errors = []
    for settings in GRIDS[name]:
        squared = (made(name, inner, settings) - true).square().sum(1).numpy()
        errors.append((squared.sum(), weights @ squared))
    alike, by_use = np.array(errors).argmin(0)
    return GRIDS[name][alike], GRIDS[name][by_use]


@contextmanager
def all_alike() -> Iterator[None]:
    """While it holds, the shares of `kriging` are found from all anchors alike."""
    spread = kriging.spread_by_use

    def alike(texts: Texts, rows: Tensor) -> tuple[Tensor, Tensor]:
        chosen, weights = spread(texts, rows)
        return chosen, torch.ones_like(weights)

    with mock.patch.object(kriging, "spread_by_use", alike):
        yield


def every_way(
    problem: MissingRows, methods: Sequence[str]
) -> dict[tuple[str, str], Float[Tensor, "missing dim"]]:
    """The missing rows by each method and way."""
    rows = {}
    for name in methods:
        if name == "kriging":
            rows[name, WAYS[0]] = made(name, problem, {"adapt": False})
            with all_alike():
                rows[name, WAYS[1]] = made(name, problem, {})
            rows[name, WAYS[2]] = made(name, problem, {})
            continue
        settings = dict(zip(WAYS, ({}, *found(name, problem)), strict=True))
        told = "; ".join(f"{way} {settings[way]}" for way in WAYS[1:])
        print(f"    {problem.part.value}, {name}: {told}", flush=True)
        for way in WAYS:
            rows[name, way] = made(name, problem, settings[way])
    return rows


def on_real_rows(base: str, donor: str, methods: Sequence[str], cache_dir: Path) -> None:
    hidden = hide(read_real_rows(base, cache_dir), read_real_rows(donor, cache_dir), 0)
    mean, weights = finite_mean(hidden.problem.base), 1 / (hidden.tokens + 1.0)
    of_mean = (hidden.true - mean).square().sum(1).numpy()
    rows = every_way(hidden.problem, methods)
    for name in methods:
        cells = []
        for way in WAYS:
            squared = (rows[name, way] - hidden.true).square().sum(1).numpy()
            plain, by_use = squared.sum() / of_mean.sum(), weights @ squared / (weights @ of_mean)
            cells.append(f"{plain:.3f} / {by_use:.3f}")
        print(f"| {base} <- {donor} | `{name}` | {' | '.join(cells)} |", flush=True)


@dataclass(frozen=True, eq=False)
class Small:
    """A small model, its vocabulary and its matrices."""

    path: Path
    model: Any
    tokenizer: Any
    vocabulary: Vocabulary
    matrices: Mapping[Part, Float[Tensor, "tokens dim"]]
    """One, of the input, where the model is tied."""

    @classmethod
    def read(cls, path: Path) -> Small:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        matrices = {Part.INPUT: model.get_input_embeddings().weight.detach().clone()}
        if not model.config.tie_word_embeddings:
            matrices[Part.HEAD] = model.get_output_embeddings().weight.detach().clone()
        tokenizer = AutoTokenizer.from_pretrained(path)
        return cls(
            path, model, tokenizer, Vocabulary.from_tokenizer(tokenizer, path.name), matrices
        )


def problems(base: Small, donor: Small, alignment: Alignment) -> dict[Part, MissingRows]:
    """What a merge has to approximate, as the plugin does: a tied base from the donor's head."""
    missing = np.flatnonzero(alignment.source < 0)
    anchors = np.flatnonzero(alignment.anchors)
    texts = Texts(
        missing=[donor.vocabulary.content[i] for i in missing],
        base=base.vocabulary.content,
        donor=donor.vocabulary.content,
        segment_in_base=base.vocabulary.segment,
        segment_in_donor=donor.vocabulary.segment,
        emitted=base.vocabulary.segmenter.emitted,
    )
    posed = {}
    for part, matrix in base.matrices.items():
        wanted = part if Part.HEAD in base.matrices else Part.HEAD
        own = donor.matrices.get(wanted, donor.matrices[Part.INPUT])
        other = next((m for p, m in donor.matrices.items() if p != wanted), None)
        other = other if len(donor.matrices) > 1 else None
        posed[part] = MissingRows(
            part=part,
            base=matrix,
            inputs=CodingInputs(
                missing=len(missing),
                anchor_rows=torch.from_numpy(alignment.source[anchors]),
                targets=own[torch.from_numpy(missing)],
                anchors=own[torch.from_numpy(anchors)],
                donor=own,
                other_targets=None if other is None else other[torch.from_numpy(missing)],
                other_anchors=None if other is None else other[torch.from_numpy(anchors)],
                texts=texts,
            ),
        )
    return posed


def bits(
    base: Small,
    donor: Small,
    alignment: Alignment,
    new: Mapping[Part, Tensor],
    ids: list[list[int]],
) -> Float[np.ndarray, " documents"]:
    """Of each document, with these rows for the missing tokens."""
    missing = torch.from_numpy(alignment.source < 0)
    copied = torch.from_numpy(alignment.source)[~missing]
    for part, matrix in base.matrices.items():
        rows = matrix.new_empty((len(missing), matrix.shape[1]))
        rows[~missing], rows[missing] = matrix[copied], new[part].to(matrix)
        weight = torch.nn.Parameter(rows, requires_grad=False)
        if part == Part.INPUT:
            base.model.get_input_embeddings().weight = weight
        if part == Part.HEAD or len(base.matrices) == 1:
            base.model.get_output_embeddings().weight = weight
    return np.array([of_tokens.sum() for of_tokens in token_bits(base.model, ids)])


def on_small_models(
    name: str, base: Small, donor: Small, methods: Sequence[str], documents: Sequence[Document]
) -> None:
    alignment = align(base.vocabulary, donor.vocabulary)
    rows = {
        part: every_way(posed, methods) for part, posed in problems(base, donor, alignment).items()
    }
    encoded = donor.tokenizer(
        [document.text for document in documents],
        add_special_tokens=False,
        split_special_tokens=True,
        verbose=False,
    )["input_ids"]
    ids = [[donor.tokenizer.bos_token_id, *each] for each in encoded]
    draws = resampled([document.kind for document in documents])
    total = draws @ np.array([len(document.text.encode()) for document in documents])
    for method in methods:
        cells: list[str] = []
        before = None
        for way in WAYS:
            new = {part: found[method, way] for part, found in rows.items()}
            rate = draws @ bits(base, donor, alignment, new, ids) / total
            before = rate if before is None else before
            low, high = np.quantile(before - rate, (0.025, 0.975))
            won = f" ({before[0] - rate[0]:+.4f} [{low:.4f}, {high:.4f}])" if cells else ""
            cells.append(f"{rate[0]:.3f}{won}")
        print(f"| {name} | `{method}` | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.constants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--pairs",
        nargs="+",
        required=True,
        metavar="BASE:DONOR",
        help=f"two of {', '.join(PACKAGES)}, or two of the small models",
    )
    every = [*GRIDS, "kriging"]
    parser.add_argument(
        "--methods", nargs="+", default=every, choices=every, help="all if left out"
    )
    parser.add_argument("--corpus", type=Path, help="a folder of .txt files: more text")
    parser.add_argument("--every", type=int, default=3, help="take every so many-th document")
    parser.add_argument("--cache", type=Path, default=default_cache_dir(), help="kept models")
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    print(f"| | | {' | '.join(WAYS)} |\n|---|---|---:|---:|---:|", flush=True)
    pairs = [pair.split(":") for pair in arguments.pairs]
    for base, donor in pairs:
        if base in PACKAGES:
            on_real_rows(base, donor, arguments.methods, arguments.cache)
    small = [pair for pair in pairs if pair[0] not in PACKAGES]
    if not small:
        return
    texts = SMALL.read(arguments.corpus)
    paths = SMALL.make({name for pair in small for name in pair}, texts, arguments.cache)
    models = {name: Small.read(path) for name, path in paths.items()}
    for base, donor in small:
        documents = texts.held_out[:: arguments.every]
        on_small_models(
            f"{base} <- {donor}", models[base], models[donor], arguments.methods, documents
        )


if __name__ == "__main__":
    main()
