"""`kriging` of one vocabulary tensor of a large model: time of each phase, and peak memory.

Synthetic rows in bfloat16 of a donor with two matrices, of which the base's are a noisy linear map,
and tokens of two or four letters. Run from the repository:

    python benchmarks/large_kriging.py --anchors 110000 --missing 18000 --dim 4096
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import json
import pstats
import resource
import string
import time

import torch
from dictionaries import embeddings, machine

from mergekit_omp.approximation import CodingInputs, MissingRows, Part, Sizes, Texts
from mergekit_omp.approximation.kriging import Kriging
from mergekit_omp.inspection.estimate import seconds_per_multiply_add

ROWS_AT_ONCE = 4096
PHASES = {
    "_normal_equations": "normal equations",
    "validated": "penalties",
    "of_missing": "regression of the missing, and their neighbours' residuals",
    "coarse_anchors": "anchors as integers",
    "interpolated": "the nearest of all tokens",
    "spelled_alike": "tokens spelled alike",
    "nearest_anchors": "nearest anchors, the check's too",
    "mixed_residuals": "mixing residuals of the check",
    "local_weights": "weights, the check's and all tokens' too",
}
"""By the names of functions."""


def rows(count: int, dim: int, seed: int) -> torch.Tensor:
    found = torch.empty((count, dim), dtype=torch.bfloat16)
    for at, part in enumerate(found.split(ROWS_AT_ONCE)):
        part.copy_(embeddings(len(part), dim, seed=1000 * seed + at))
    return found


def mapped(donor: torch.Tensor, seed: int) -> torch.Tensor:
    """A linear map of rows, with as much noise."""
    generator = torch.Generator().manual_seed(seed)
    dim = donor.shape[1]
    turn = torch.randn((dim, dim), generator=generator) / dim**0.5
    found = torch.empty_like(donor)
    for part, of_donor in zip(found.split(ROWS_AT_ONCE), donor.split(ROWS_AT_ONCE), strict=True):
        noise = torch.randn(part.shape, generator=generator) / dim**0.5
        part.copy_(of_donor.float() @ turn + noise)
    return found


def texts(anchors: int, missing: int) -> Texts:
    """Words of four letters, each of two tokens of two."""
    letters = string.ascii_lowercase.encode()
    pairs = [bytes(pair) for pair in itertools.product(letters, repeat=2)]
    words = (first + second for first in pairs for second in pairs)
    base = [*pairs, *itertools.islice(words, anchors - len(pairs))]
    row_of = {text: row for row, text in enumerate(base)}

    def segment(found: object) -> list[list[int]]:
        assert isinstance(found, list)
        cut = lambda word: [row_of[word[at : at + 2]] for at in range(0, len(word), 2)]  # noqa: E731
        return [[row_of[w]] if w in row_of else cut(w) if len(w) % 2 == 0 else [] for w in found]

    new = list(itertools.islice(words, missing))
    return Texts(
        missing=new,
        base=base,
        donor=[*new, *base],
        segment_in_base=segment,
        segment_in_donor=segment,
    )


def phases(profile: cProfile.Profile) -> dict[str, float]:
    """Processor seconds, of all threads, within each phase."""
    functions = pstats.Stats(profile).get_stats_profile().func_profiles
    return {
        PHASES[name]: round(figures.cumtime, 1)
        for name, figures in functions.items()
        if name in PHASES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anchors", type=int, default=110_000)
    parser.add_argument("--missing", type=int, default=18_000)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--share", type=float, default=1.0, help="of the missing tokens")
    parser.add_argument("--tied", action="store_true", help="a donor of one matrix")
    parser.add_argument("--ridge", type=float, help="one penalty, instead of about three")
    given = parser.parse_args()
    method = Kriging(ridge=given.ridge)
    missing = int(given.missing * given.share)
    count = missing + given.anchors
    print(f"{machine()}\n{vars(given)}", flush=True)
    donor = rows(count, given.dim, seed=1)
    base = mapped(donor[missing:], seed=2)
    ids = torch.arange(count)
    inputs = CodingInputs(
        missing=missing,
        anchor_rows=torch.arange(given.anchors),
        donor=donor,
        target_ids=ids[:missing],
        anchor_ids=ids[missing:],
        other_matrix=None if given.tied else rows(count, given.dim, seed=3),
        texts=texts(given.anchors, missing),
        progress=True,
    )
    before = resource.getrusage(resource.RUSAGE_SELF)
    unit = seconds_per_multiply_add("cpu")
    began = time.perf_counter()
    profile = cProfile.Profile(time.process_time)
    profile.runcall(method.rows, MissingRows(Part.INPUT, base, inputs))
    spent = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    sizes = Sizes(
        missing=missing,
        anchors=given.anchors,
        base_rows=len(base),
        base_dim=given.dim,
        donor_dim=given.dim,
        other_dim=0 if given.tied else given.dim,
        dtype=torch.bfloat16,
    )
    cost = method.cost(sizes)
    tensors = [donor, base, *([] if inputs.other_matrix is None else [inputs.other_matrix])]
    print(
        json.dumps(
            {
                "seconds": round(spent),
                "processor_seconds": round(
                    after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                ),
                "of_phases": phases(profile),
                "peak_gb": round(after.ru_maxrss * 1024 / 1e9, 1),
                "of_which_its_tensors_gb": round(sum(t.nbytes for t in tensors) / 1e9, 1),
                "estimated_seconds": round(cost.multiply_adds * unit),
                "estimated_gb_beside_tensors": round(cost.bytes / 1e9, 1),
                "multiply_adds_a_second": float(f"{1 / unit:.3g}"),
                "ridge": inputs.in_force["ridge"],
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
