"""Published models among the small ones: their folders, their text and their scores."""

from __future__ import annotations

import pytest
import torch
from tiny_plan import TINY
from trained_tokenizers import byte_level, wordpiece
from transformers import AutoTokenizer

from benchmarks.quality import scoring_whole
from benchmarks.quality.corpus import Document
from benchmarks.quality.methods import chosen
from benchmarks.quality.packages import PACKAGES
from benchmarks.quality.plans import Pair
from benchmarks.quality.published import spelled
from benchmarks.quality.running import run
from benchmarks.quality.scoring import score


def test_whole_documents_are_scored_as_in_float32(bench):
    """Up to what bfloat16 rounds, where a document fits into the small models' windows too."""
    texts = ["The story begins.", "def f(x):\n    return x + 12", "3 + 4 = 7"]
    path = bench.models["B"]
    new = torch.arange(len(AutoTokenizer.from_pretrained(path))).numpy() % 3 == 0
    for ours, exact in zip(
        scoring_whole.score(path, texts, new), score(path, texts, new), strict=True
    ):
        assert (ours.bytes, ours.tokens, ours.new_tokens) == (
            exact.bytes,
            exact.tokens,
            exact.new_tokens,
        )
        assert 0 < ours.new_tokens < ours.tokens
        assert ours.bits == pytest.approx(exact.bits, rel=5e-3)
        assert ours.new_bits == pytest.approx(exact.new_bits, rel=1e-2)


def test_rows_without_a_model_are_a_donor(bench, tmp_path, monkeypatch):
    """As those of a package: the merge, the scores and the tables."""
    rows = torch.randn(700, 24, generator=torch.Generator().manual_seed(0))
    monkeypatch.setitem(PACKAGES, "Rows", ("rows==1", lambda folder: (byte_level(700), rows)))
    (bench.cache / "packages" / "rows==1").mkdir(parents=True)
    (result,) = run(
        TINY,
        (Pair("S", "Rows"),),
        chosen(["kriging"]),
        corpus=bench.corpus,
        cache_dir=bench.cache,
        out=tmp_path,
        every=8,
    )
    assert list(result.methods) == ["zero", "kriging", "omp 64"]
    assert "S <- Rows" in (tmp_path / "quality.md").read_text()


def test_text_is_what_the_tokenizer_keeps_of_it(tmp_path):
    documents = [Document("prose", "Two  Rivers\nmeet (here)."), Document("code", "x = 1")]
    byte_level(700).save_pretrained(tmp_path / "bytes")
    assert spelled(documents, tmp_path / "bytes") == documents
    wordpiece(700).save_pretrained(tmp_path / "words")
    kept = spelled(documents, tmp_path / "words")
    assert kept[0].text.startswith("two rivers meet (")
    assert spelled(kept, tmp_path / "words") == kept
