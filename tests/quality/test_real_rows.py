"""Real rows: hidden tokens of two vocabularies, scored once by each method."""

from __future__ import annotations

import pytest
import torch
from tiny_plan import TINY
from trained_tokenizers import byte_level

from benchmarks.quality import real
from benchmarks.quality.__main__ import _tokens
from benchmarks.quality.methods import chosen
from benchmarks.quality.packages import RealRows
from benchmarks.quality.real import RIVALS, real_report, score_pair
from mergekit_omp.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> list[RealRows]:
    """Two whose rows of shared tokens are linear in each other."""
    draw = torch.Generator().manual_seed(0)
    features: dict[bytes | None, torch.Tensor] = {}
    found = []
    for name, size, dim in (("one", 700, 12), ("other", 900, 16)):
        vocabulary = Vocabulary.from_tokenizer(byte_level(size), name)
        mixed = torch.randn(8, dim, generator=draw)
        known = [features.setdefault(t, torch.randn(8, generator=draw)) for t in vocabulary.content]
        found.append(
            RealRows(name, vocabulary, torch.stack(known) @ mixed, tmp_path_factory.mktemp(name))
        )
    return found


def test_what_was_scored_is_kept_and_scores_tell_methods_apart(packages, tmp_path, monkeypatch):
    methods = chosen(["mean", "linear", "kriging", *RIVALS])

    def scored(**options):
        return score_pair(*packages, methods, seeds=(0, 1), count=60, cache=tmp_path, **options)

    first = scored()
    assert first["mean"].error.value == pytest.approx(1, rel=1e-5)
    assert first["mean"].error_by_use.value == pytest.approx(1, rel=1e-5)
    # The penalty of `linear` is a tenth.
    assert first["linear"].error.value < 0.1 < first["knn"].error.value < 1
    report = real_report({"one <- other": first})
    ours = first["kriging"].error.value
    best = min(first[label].error.value for label in RIVALS)
    assert f"| one <- other | {ours / best:.3f} | {(best - ours) / (1 - best):.3f} |" in report

    def refused(*arguments: object) -> None:
        raise AssertionError("a kept score was made again")

    monkeypatch.setattr(real, "_make", refused)
    assert scored() == first
    with pytest.raises(AssertionError, match="made again"):
        scored(again=True)


def test_tokens_of_all_models_or_of_each():
    assert _tokens("4000", TINY) == {"S": 4000, "B": 4000}
    assert _tokens("S=4000,B=20", TINY) == {"S": 4000, "B": 20}
    for wrong in ("many", "S=", "Q=4", "S=4;B=5"):
        with pytest.raises(ValueError, match="write a number, or S=N,B=N"):
            _tokens(wrong, TINY)
