"""Whether leaving under-trained tokens out of the anchors pays: `python -m benchmarks.untrained`.

Swaps tokenizers between the models of `benchmarks/quality` (trained by it where they are not made
yet), as they are and with a share of the rows of both replaced by random ones, as if their tokens had
never been trained. Each swap is made with all anchors, without those that
`mergekit-tokensurgeon --magikarp` would leave out (Land & Bartolo 2024, arXiv 2405.05417), without
those whose head rows are most like rows of tokens that are never emitted, without as many at random,
and, where rows were replaced, without exactly those. Prints bits per byte of held-out text.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from mergekit.tokenizer.normalization import normalized_vocabulary
from mergekit.tokensurgeon import well_trained_tokens
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from benchmarks.quality.cache import default_cache_dir
from benchmarks.quality.plans import SMALL
from benchmarks.quality.scoring import score
from mergekit_omp.transplant.row_planning import RowPlanner
from mergekit_omp.vocabulary import Alignment, Kind, Vocabulary

Rows = np.ndarray
"""For each row of a model whether it is to be no anchor."""

METHODS = ("kriging", "omp")
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Model:
    """A small model's vocabulary, and which of its rows look untrained."""

    def __init__(self, path: Path) -> None:
        self.path = path
        tensors = load_file(path / "model.safetensors")
        self.embed = tensors[EMBED].float()
        self.head = tensors[HEAD].float() if HEAD in tensors else None
        self.tokenizer = AutoTokenizer.from_pretrained(path)

    def by_magikarp(self) -> Rows:
        vocabulary = normalized_vocabulary(self.tokenizer)
        good = well_trained_tokens(vocabulary, self.embed, self.head)
        bad = np.ones(len(self.embed), dtype=bool)
        bad[[vocabulary[token] for token in good]] = False
        return bad

    def by_unused(self, share: float) -> Rows:
        """Those whose rows point most where the rows of tokens that are never emitted point."""
        vocabulary = Vocabulary.from_tokenizer(self.tokenizer, str(self.path))
        ordinary = np.flatnonzero(vocabulary.kinds == Kind.ORDINARY)
        unused = ordinary[~vocabulary.emitted(ordinary)]
        rows = self.embed if self.head is None else self.head
        if len(unused):
            mean = rows[torch.from_numpy(unused)].mean(0, keepdim=True)
            untrained = torch.cosine_similarity(rows, mean)
        else:
            untrained = -self.embed.norm(dim=1)
        bad = np.zeros(len(rows), dtype=bool)
        bad[untrained.topk(int(share * len(rows))).indices.numpy()] = True
        return bad

    def at_random(self, share: float, seed: int) -> Rows:
        return np.random.default_rng(seed).random(len(self.embed)) < share

    def replaced(self, rows: Rows, out: Path) -> Model:
        """A copy in which these rows are as they are before training."""
        shutil.copytree(self.path, out)
        tensors = load_file(out / "model.safetensors")
        draw = torch.Generator().manual_seed(0)
        for name in (EMBED, HEAD):
            if name in tensors:
                matrix = tensors[name].clone()
                new = torch.randn(int(rows.sum()), matrix.shape[1], generator=draw)
                matrix[torch.from_numpy(rows)] = 0.9 / matrix.shape[1] ** 0.5 * new
                tensors[name] = matrix
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        return Model(out)


@contextmanager
def without(base: Rows, donor: Rows) -> Iterator[None]:
    """While it holds, these rows are no anchors, though they are copied where tokens are shared."""
    usable: Callable[..., Any] = RowPlanner._usable

    def fewer(self: RowPlanner, space: Any, models: Any, alignment: Alignment) -> np.ndarray:
        kept: np.ndarray = usable(self, space, models, alignment).copy()
        shared = np.flatnonzero(alignment.source >= 0)
        kept[shared[base[alignment.source[shared]] | donor[shared]]] = False
        return kept

    RowPlanner._usable = fewer  # type: ignore[method-assign]
    try:
        yield
    finally:
        RowPlanner._usable = usable  # type: ignore[method-assign]


def bits_per_byte(base: Model, donor: Model, method: str, texts: list[str]) -> float:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    config = {
        "merge_method": method,
        "base_model": str(base.path),
        "models": [{"model": str(base.path)}],
        "tokenizer_source": str(donor.path),
        "dtype": "float32",
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        run_merge(MergeConfiguration.model_validate(config), str(out), MergeOptions(quiet=True))
        documents = score(out, texts)
    return sum(d.bits for d in documents) / sum(d.bytes for d in documents)


def row(base: Model, donor: Model, method: str, texts: list[str], known: list[Rows]) -> list[str]:
    """Bits per byte with all anchors, then without those that each way finds."""
    none = [np.zeros(len(model.embed), dtype=bool) for model in (base, donor)]
    ways = [
        none,
        [base.by_magikarp(), donor.by_magikarp()],
        [base.by_unused(0.05), donor.by_unused(0.05)],
        [base.at_random(0.05, 1), donor.at_random(0.05, 2)],
        known,
    ]
    cells = []
    for way in ways:
        if not way:
            cells.append("")
            continue
        with without(*way):
            cells.append(f"{bits_per_byte(base, donor, method, texts):.3f}")
    return cells


def measured(name: str, base: Path, donor: Path, texts: list[str]) -> None:
    """The lines of one pair."""
    pair = [Model(base), Model(donor)]
    with tempfile.TemporaryDirectory() as folder:
        for share in (0.0, 0.05, 0.2):
            known: list[Rows] = []
            models = pair
            if share:
                known = [model.at_random(share, 3 + i) for i, model in enumerate(pair)]
                models = [
                    model.replaced(rows, Path(folder) / f"{share}-{i}")
                    for i, (model, rows) in enumerate(zip(pair, known, strict=True))
                ]
            for method in METHODS:
                cells = row(models[0], models[1], method, texts, known)
                print(f"| {name} | {share:.0%} | `{method}` | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.untrained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--corpus", type=Path, help="a folder of .txt files: more text")
    parser.add_argument("--pairs", nargs="+", default=["Z:X", "X:Y"], metavar="BASE:DONOR")
    parser.add_argument("--every", type=int, default=3, help="take every so many-th document")
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    texts = SMALL.read(arguments.corpus)
    named = {name for pair in arguments.pairs for name in pair.split(":")}
    models = SMALL.make(named, texts, default_cache_dir())
    print("| pair | random rows | | all anchors | magikarp | like unused | at random | exactly |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    for pair in arguments.pairs:
        base, _, donor = pair.partition(":")
        held_out = [document.text for document in texts.held_out[:: arguments.every]]
        measured(pair.replace(":", " <- "), models[base], models[donor], held_out)


if __name__ == "__main__":
    main()
