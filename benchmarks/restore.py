"""Rows of lost tokens given back after a swap: `python -m benchmarks.restore --out DIR`.

The models and texts of `python -m benchmarks.quality` (trained once; the same cache). Each base
gets each donor's tokenizer by `kriging`, and then `mergekit-omp grow --restore` gives back the
base's rows: in the place of the last piece's row, added to it, or half of each. `bound` is what no
table can do better: rows that the base's own tokenizer chooses on the text so far. Prints bits per
byte with 95% intervals by bootstrap over documents, arithmetic apart.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer

import mergekit_omp.growth  # noqa: F401  so that grown models load
from benchmarks.quality.cache import default_cache_dir
from benchmarks.quality.corpus import Document
from benchmarks.quality.merging import merge
from benchmarks.quality.methods import METHODS
from benchmarks.quality.plans import SMALL
from benchmarks.quality.scoring import score
from benchmarks.quality.statistics import resampled
from mergekit_omp.growth.grow import Growth, plan, write
from mergekit_omp.growth.ngrams import ExactRows
from mergekit_omp.growth.restore import Restored, RestoreSettings, read_rows
from mergekit_omp.growth.source import open_source
from mergekit_omp.vocabulary import Vocabulary
from mergekit_omp.vocabulary.lost import LONGEST

WAYS = {"replaced": (1.0, 0.0), "half": (0.5, 0.5), "added": (1.0, 1.0)}
"""By name: how much of the base's row, and of the piece's own."""


def measure(
    base: Path, donor: Path, documents: Sequence[Document], scratch: Path
) -> dict[str, Any]:
    """Bits of each document for the base, the swap, and each way of giving rows back."""
    texts = [document.text for document in documents]
    kriging = next(method for method in METHODS if method.label == "kriging")
    swapped = scratch / "swapped"
    merge(kriging, base, donor, swapped)
    bits = {"own tokenizer": _bits(base, texts), "swapped": _bits(swapped, texts)}
    found: dict[str, Any] = {"bits": bits}
    for way, (share, own) in WAYS.items():
        growth = plan(str(swapped), None, RestoreSettings(str(base), share, own, texts))
        write(growth, str(scratch / way), progress=False, told=lambda line: None)
        bits[way] = _bits(scratch / way, texts)
        found |= {"tokens": growth.entry["exact"]["entries"], "hit": growth.hit}
    growth = bound(growth, base, swapped, texts)
    write(growth, str(scratch / "bound"), progress=False, told=lambda line: None)
    bits["bound"] = _bits(scratch / "bound", texts)
    return found


def bound(growth: Growth, base: Path, swapped: Path, texts: Sequence[str]) -> Growth:
    """The most that rows of the base can do at the places of tokens.

    Wherever the base's own tokenizer, on the text until here, ends in a longer token than the
    output's does, that token's row: by a table of the 8-grams of these very texts.
    """
    tokenizers = [AutoTokenizer.from_pretrained(path) for path in (base, swapped)]
    own, output = (Vocabulary.from_tokenizer(each, "") for each in tokenizers)
    encoded = tokenizers[1](list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    found: dict[tuple[int, ...], int] = {}
    for ids in encoded:
        contents = [output.content[i] or b"" for i in ids]
        so_far = [b"".join(contents[max(0, t - 40) : t + 1]) for t in range(len(ids))]
        readable = [text.decode(errors="ignore") for text in so_far]
        ends = tokenizers[0](readable, add_special_tokens=False)["input_ids"]
        for t, last in enumerate(ends):
            row = own.content[last[-1]] or b"" if last else b""
            if len(row) > len(contents[t]) and so_far[t].endswith(row):
                found.setdefault(tuple(reversed(ids[max(0, t - LONGEST + 1) : t + 1])), last[-1])
    keys = [key for key in found if len(key) > 1]
    ngrams = torch.tensor([[*key, *[-1] * (LONGEST - len(key))] for key in keys])
    order = ExactRows.key_of(ngrams).argsort()
    rows = read_rows(open_source(str(base)), np.array([found[key] for key in keys])[order.numpy()])
    size = {"entries": len(keys), "rows": len(keys), "longest": LONGEST}
    table = Restored(ngrams[order], rows, {**size, "share": 1.0, "own": 0.0}, hit=0.0)
    entry = {**growth.entry, "exact": table.entry}
    return replace(growth, entry=entry, tensors=table.tensors(growth.source.dtype))


def _bits(path: Path, texts: Sequence[str]) -> list[float]:
    return [document.bits for document in score(path, texts)]


def report(pairs: Mapping[str, dict[str, Any]], documents: Sequence[Document]) -> str:
    """A table over all text, and one over arithmetic."""
    lines: list[str] = []
    for title, kinds in (("All text", None), ("Arithmetic", ("arithmetic",))):
        lines += [
            f"**{title}**",
            "",
            "| | tokens | positions | own tokenizer | swapped | replaced | half | added | bound "
            "| won by replacing | of the loss | bound, of the loss |",
            "|---|" + "---:|" * 11,
        ]
        chosen = [i for i, d in enumerate(documents) if kinds is None or d.kind in kinds]
        draws = resampled([documents[i].kind for i in chosen])
        sizes = draws @ np.array([len(documents[i].text.encode()) for i in chosen], dtype=float)
        for name, found in pairs.items():
            rate = {
                way: draws @ np.array([bits[i] for i in chosen]) / sizes
                for way, bits in found["bits"].items()
            }
            won = rate["swapped"] - rate["replaced"]
            loss = rate["swapped"] - rate["own tokenizer"]
            cells = [f"{rate[way][0]:.3f}" for way in ("own tokenizer", "swapped", *WAYS, "bound")]
            lines.append(
                f"| {name} | {found['tokens']} | {found['hit']:.1%} | {' | '.join(cells)} | "
                f"{_interval(won, '.3f')} | {_interval(won / loss, '.0%')} | "
                f"{_interval((rate['swapped'] - rate['bound']) / loss, '.0%')} |"
            )
        lines.append("")
    return "\n".join(lines)


def _interval(values: np.ndarray, spelt: str) -> str:
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return f"{values[0]:{spelt}} [{low:{spelt}}, {high:{spelt}}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.restore",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="where results are written")
    parser.add_argument("--corpus", type=Path, help="a folder of .txt files: more text")
    parser.add_argument("--cache", type=Path, help="where trained models are kept")
    parser.add_argument("--pairs", nargs="+", metavar="BASE:DONOR", help="such as X:Z")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    wanted = arguments.pairs or [f"{pair.base}:{pair.donor}" for pair in SMALL.pairs]
    names = {name for pair in wanted for name in pair.split(":")}
    texts = SMALL.read(arguments.corpus)
    models = SMALL.make(names, texts, arguments.cache or default_cache_dir())
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept = arguments.out / "restore.json"
    pairs: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for pair in wanted:
        base, donor = pair.split(":")
        name = f"{base} <- {donor}"
        if name not in pairs:
            with tempfile.TemporaryDirectory() as scratch:
                pairs[name] = measure(models[base], models[donor], texts.held_out, Path(scratch))
            kept.write_text(json.dumps(pairs, indent=1), encoding="utf-8")
        print(name, file=sys.stderr, flush=True)
    text = report(pairs, texts.held_out)
    (arguments.out / "restore.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
