"""How the methods fare on real rows: shared tokens of well-trained vocabularies, hidden and made.

Tokens are hidden as `mergekit-omp report` hides them, and their rows made from the others; nothing
runs a model but the check of sentences, which asks of MiniLM how far its embeddings of texts move.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from benchmarks.quality.cache import ROWS, digest, sources
from benchmarks.quality.methods import PEER, Method
from benchmarks.quality.packages import RealRows, read_real_rows
from benchmarks.quality.plans import Pair
from benchmarks.quality.sentences import SentenceCheck
from benchmarks.quality.statistics import RESAMPLES, Estimate
from mergekit_omp.approximation import APPROXIMATIONS, CodingInputs, MissingRows, Part
from mergekit_omp.approximation.moments import finite_mean
from mergekit_omp.report.held_out import hidden_texts
from mergekit_omp.vocabulary import align

HIDDEN = 1500
SEEDS = (0, 1)
RIVALS = ("focus", "wechsel", "knn", "kriging, no adapt")
"""Labels of the methods of which `kriging` is to beat the best."""
HEAD_OF_ZIPF = 1
"""Use is taken to fall as 1 / (id in the donor's vocabulary + this), Zipf's law."""


@dataclass(frozen=True, eq=False)
class HiddenRows:
    """A problem whose answer is known."""

    problem: MissingRows
    tokens: Int64[np.ndarray, " hidden"]
    """Ids of the donor's vocabulary."""
    rows: Int64[np.ndarray, " hidden"]
    """The base's rows of the same tokens."""
    true: Float[Tensor, "hidden dim"]


@dataclass(frozen=True)
class RealScore:
    """What one method makes of the hidden tokens of one pair, over all seeds."""

    error: Estimate
    """Squared error over that of the mean row."""
    error_by_use: Estimate
    """The same, each token weighted by Zipf's law."""
    cosine: Estimate
    """Mean cosine of the offsets from the mean row."""
    seconds: float
    """Processor seconds for the hidden tokens of one seed, the least of all seeds."""
    sentences: float | None
    """Mean cosine of a sentence's embedding with the one that the true rows give."""


def hide(base: RealRows, donor: RealRows, seed: int, count: int = HIDDEN) -> HiddenRows:
    """Hides `count` shared tokens (a quarter, where that is fewer), drawn at random."""
    alignment = align(base.vocabulary, donor.vocabulary)
    shared = np.flatnonzero(alignment.anchors)
    shared = shared[(shared < len(donor.rows)) & (alignment.source[shared] < len(base.rows))]
    draw = np.random.default_rng(seed)
    hidden = np.sort(draw.choice(shared, min(count, len(shared) // 4), replace=False))
    anchors = np.setdiff1d(shared, hidden)
    rows = alignment.source[hidden]
    index = torch.from_numpy(rows)
    left = base.rows.clone()
    left[index] = torch.nan
    inputs = CodingInputs(
        missing=len(hidden),
        anchor_rows=torch.from_numpy(alignment.source[anchors]),
        targets=donor.rows[torch.from_numpy(hidden)],
        anchors=donor.rows[torch.from_numpy(anchors)],
        donor=donor.rows,
        texts=hidden_texts(base.vocabulary, donor.vocabulary, len(left), rows.tolist()),
    )
    problem = MissingRows(part=Part.INPUT, base=left, inputs=inputs)
    return HiddenRows(problem, hidden, rows, base.rows[index])


@dataclass(frozen=True)
class Made:
    """What one method makes of the hidden tokens of one seed."""

    squared: list[float]
    """Squared error of each token's row."""
    cosine: list[float]
    seconds: float
    sentences: float | None


def run_real(
    pairs: Sequence[Pair],
    methods: Sequence[Method],
    cache_dir: Path,
    out: Path,
    *,
    again: bool = False,
    seeds: Sequence[int] = SEEDS,
) -> str:
    """Scores `methods` on pairs of packages; writes real.json and real.md to `out`.

    Each score is kept in the cache, so that a run which was stopped goes on where it was.
    """
    used = dict.fromkeys(name for pair in pairs for name in (pair.base, pair.donor))
    real = {name: read_real_rows(name, cache_dir) for name in used}
    sentences = SentenceCheck(real["MiniLM"]) if "MiniLM" in real else None
    found: dict[str, dict[str, RealScore]] = {}
    for pair in pairs:
        found[str(pair)] = score_pair(
            real[pair.base],
            real[pair.donor],
            methods,
            sentences if pair.base == "MiniLM" else None,
            seeds,
            cache=cache_dir / "scores",
            again=again,
        )
        print(f"{pair}: done", file=sys.stderr, flush=True)
        out.mkdir(parents=True, exist_ok=True)
        plain = {p: {m: asdict(s) for m, s in scores.items()} for p, scores in found.items()}
        (out / "real.json").write_text(json.dumps(plain, indent=1), encoding="utf-8")
        (out / "real.md").write_text(real_report(found), encoding="utf-8")
    return real_report(found)


def score_pair(
    base: RealRows,
    donor: RealRows,
    methods: Sequence[Method],
    sentences: SentenceCheck | None = None,
    seeds: Sequence[int] = SEEDS,
    count: int = HIDDEN,
    *,
    cache: Path,
    again: bool = False,
) -> dict[str, RealScore]:
    """Every method on the same hidden tokens, those of all seeds taken together."""
    problems = [hide(base, donor, seed, count) for seed in seeds]
    of_mean, use = map(np.concatenate, zip(*map(_wanted, problems), strict=True))
    found = {}
    code = sources([*ROWS, sys.modules[SentenceCheck.__module__], sys.modules[__name__]])
    for method in methods:
        if method.approximation == PEER:
            continue
        made = []
        for seed, hidden in zip(seeds, problems, strict=True):
            asked = [base.folder.name, donor.folder.name, asdict(method), seed, count, code]
            file = cache / f"real-{digest(asked)}.json"
            if again or not file.exists():
                _keep(_make(method, hidden, sentences), file)
            made.append(Made(**json.loads(file.read_text(encoding="utf-8"))))
        squared = np.concatenate([each.squared for each in made])
        cosine = np.concatenate([each.cosine for each in made])
        of_texts = [each.sentences for each in made if each.sentences is not None]
        found[method.label] = RealScore(
            error=_ratio(squared, of_mean),
            error_by_use=_ratio(squared * use, of_mean * use),
            cosine=_ratio(cosine, np.ones_like(cosine)),
            seconds=min(each.seconds for each in made),
            sentences=float(np.mean(of_texts)) if of_texts else None,
        )
        error = found[method.label].error.value
        print(f"{base.name} <- {donor.name}, {method.label}: {error:.3f}", file=sys.stderr)
    return found


def _make(method: Method, hidden: HiddenRows, sentences: SentenceCheck | None) -> Made:
    problem = _unshared(hidden.problem)
    began = time.process_time()
    rows = APPROXIMATIONS[method.approximation](**method.parameters).rows(problem)
    spent = time.process_time() - began
    mean = finite_mean(problem.base).to(rows.dtype)
    offset, wanted = rows - mean, hidden.true - mean
    return Made(
        squared=(offset - wanted).square().sum(1).tolist(),
        cosine=torch.cosine_similarity(offset, wanted, dim=1).tolist(),
        seconds=spent,
        sentences=None if sentences is None else sentences.cosine(hidden.rows, rows),
    )


def _keep(made: Made, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}-unfinished")
    unfinished.write_text(json.dumps(asdict(made)), encoding="utf-8")
    unfinished.replace(file)


def _unshared(problem: MissingRows) -> MissingRows:
    """The problem without what other methods found out about it."""
    inputs = problem.inputs
    assert inputs.texts is not None
    texts = dataclasses.replace(inputs.texts)
    return dataclasses.replace(problem, inputs=dataclasses.replace(inputs, texts=texts))


def _wanted(hidden: HiddenRows) -> tuple[np.ndarray, np.ndarray]:
    """Of each token: the squared error of the mean row, and its weight by use."""
    offset = hidden.true - finite_mean(hidden.problem.base).to(hidden.true.dtype)
    return offset.square().sum(1).double().numpy(), 1 / (hidden.tokens + HEAD_OF_ZIPF)


def _ratio(over: Float[np.ndarray, " tokens"], under: Float[np.ndarray, " tokens"]) -> Estimate:
    """Sum over sum, with the 95% interval of a bootstrap over tokens."""
    draw = np.random.default_rng(0)
    drawn = draw.integers(len(over), size=(RESAMPLES, len(over)))
    low, high = np.quantile(over[drawn].sum(1) / under[drawn].sum(1), (0.025, 0.975))
    return Estimate(float(over.sum() / under.sum()), float(low), float(high))


def real_report(found: Mapping[str, Mapping[str, RealScore]]) -> str:
    """The tables: errors with intervals, by use, cosines, and of sentences."""
    lines = ["# Real rows", ""]
    for title, field in (
        ("Squared error over that of the mean row, with 95% intervals", "error"),
        ("The same, tokens weighted by use (Zipf's law)", "error_by_use"),
        ("Mean cosine of the offsets from the mean row", "cosine"),
        ("Cosine of MiniLM's sentence embeddings with the original's", "sentences"),
        ("Processor seconds", "seconds"),
    ):
        if any(getattr(s, field) is not None for scores in found.values() for s in scores.values()):
            lines += [f"{title}:", "", *_table(found, field), ""]
    if all({"kriging", *RIVALS} <= scores.keys() for scores in found.values()):
        lines += [
            f"`kriging` and the best of {', '.join(RIVALS)}: its error over the best one's, and what it wins "
            "over it, of what that wins over the mean:",
            "",
            *_against_the_best(found),
            "",
        ]
    return "\n".join(lines)


def _against_the_best(found: Mapping[str, Mapping[str, RealScore]]) -> Iterator[str]:
    yield "| | error | won | by use: error | won |"
    yield "|---|---:|---:|---:|---:|"
    rows = []
    for pair, scores in found.items():
        row = []
        for field in ("error", "error_by_use"):
            ours = getattr(scores["kriging"], field).value
            best = min(getattr(scores[label], field).value for label in RIVALS)
            row += [ours / best, (best - ours) / (1 - best)]
        rows.append(row)
        yield f"| {pair} | {' | '.join(f'{x:.3f}' for x in row)} |"
    yield f"| mean | {' | '.join(f'{x:.3f}' for x in np.mean(rows, axis=0))} |"


def _table(found: Mapping[str, Mapping[str, RealScore]], field: str) -> Iterator[str]:
    pairs = [p for p in found if any(getattr(s, field) is not None for s in found[p].values())]
    yield f"| | {' | '.join(pairs)} |"
    yield f"|---|{'---:|' * len(pairs)}"
    for label in dict.fromkeys(label for pair in pairs for label in found[pair]):
        cells = [_cell(getattr(found[pair][label], field)) for pair in pairs]
        yield f"| {label} | {' | '.join(cells)} |"


def _cell(value: Estimate | float) -> str:
    if isinstance(value, Estimate):
        return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
    return f"{value:.4f}"
