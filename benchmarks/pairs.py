"""Every ordered pair of the real tokenizers that packages carry: merged, opened, compared.

For each pair a tiny random model on the base's tokenizer gets the donor's. The output is opened by
the installed transformers and by 4.57, and each must cut a multilingual sample exactly as the
donor's own tokenizer does, and compute the same logits.

    python benchmarks/pairs.py
    python benchmarks/pairs.py --only llama3 qwen

Needs the test extra, the packages of tests/no-deps.txt, and `make readers`.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import real_tokenizers
import transformers
from merges import merge_here, swap
from readers import OlderTransformers, read
from small_models import save_model

from mergekit_omp.inspection.sample import SAMPLES
from mergekit_omp.transplant.other_readers import TOKENIZER_MODULE

TEXTS = [*SAMPLES.values(), "".join(SAMPLES.values()), " <s> </s> <|im_end|> a  b\t\n\n c "]


@dataclass(frozen=True)
class Outcome:
    """What came of one pair."""

    base: str
    donor: str
    seconds: float
    """Of the merge."""
    tokens: int
    """In the sample."""
    logits: float
    """The largest difference between the two releases."""
    trouble: str
    """'' where all is as it should be."""


def pairs(
    names: list[str], folder: Path, older: OlderTransformers, cache: Path
) -> Iterator[Outcome]:
    """Merge and read, pair by pair."""
    models, own = {}, {}
    for name in names:
        tokenizer = real_tokenizers.load(name, cache)
        models[name] = save_model(folder / name, tokenizer, hidden=16, layers=1)
        own[name] = read(models[name], TEXTS, model=False)
    for base in names:
        for donor in names:
            if base == donor:
                continue
            out = folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            began = time.perf_counter()
            done = merge_here(swap(models[base], models[donor], "mean"), out)
            seconds = time.perf_counter() - began
            if done.status:
                yield Outcome(base, donor, seconds, 0, 0.0, done.text.strip().splitlines()[-1])
                continue
            yield compared(base, donor, seconds, out, own[donor], older)


def compared(
    base: str, donor: str, seconds: float, out: Path, own: dict, older: OlderTransformers
) -> Outcome:
    """Whether both releases, with and without remote code, read what the donor's own reads."""
    trouble = []
    logits = []
    for release, opened in (("5", read), ("4.57", older.read)):
        # Without a file of code, trusted code is not asked for.
        for trust in (None, True)[: 1 + (out / TOKENIZER_MODULE).exists()]:
            try:
                found = opened(out, TEXTS, trust=trust, model=trust is None)
            except (OSError, RuntimeError, ValueError) as error:
                trouble.append(f"{release} does not open it: {error}")
                continue
            for key in ("plain", "ids", "texts", "roles"):
                if found[key] != own[key]:
                    trouble.append(f"{release} differs in {key}")
            if trust is None:
                logits.append(torch.tensor(found["logits"]))
                if found["problems"]:
                    trouble.append(f"{release} reports {found['problems']}")
    difference = float((logits[0] - logits[1]).abs().max()) if len(logits) == 2 else float("nan")
    if difference > 1e-4:
        trouble.append("logits differ")
    tokens = sum(map(len, own["plain"]))
    return Outcome(base, donor, seconds, tokens, difference, "; ".join(dict.fromkeys(trouble)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*real_tokenizers.PUBLISHED], metavar="NAME")
    parser.add_argument("--cache", type=Path, help="where converted tokenizers are kept")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    names = options.only or list(real_tokenizers.PUBLISHED)
    outcomes = []
    with tempfile.TemporaryDirectory() as folder, OlderTransformers() as older:
        cache = options.cache or Path(folder) / "tokenizers"
        for outcome in pairs(names, Path(folder), older, cache):
            outcomes.append(outcome)
            print(
                f"{outcome.base:<10}<- {outcome.donor:<10}{outcome.seconds:>6.1f} s "
                f"{outcome.tokens:>6} tokens  logits {outcome.logits:.1e}  "
                f"{outcome.trouble or 'equal'}",
                flush=True,
            )
    bad = [outcome for outcome in outcomes if outcome.trouble]
    print(
        f"\n{len(outcomes) - len(bad)} of {len(outcomes)} pairs equal, "
        f"largest difference of logits {max(o.logits for o in outcomes):.1e}, "
        f"{sum(o.seconds for o in outcomes):.0f} s of merging; transformers "
        f"{transformers.__version__} and 4.57.6, Python {platform.python_version()}"
    )
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
