"""The corpus: what it holds, and that held-out text is not in training."""

from __future__ import annotations

import itertools
import re

import pytest

from mergekit_omp.demo.corpus import Corpus, CorpusSpec, TextKind, standard_library_corpus

SMALL = CorpusSpec(keep_every=24, held_out_every=10)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return standard_library_corpus(SMALL)


def paragraphs(documents) -> set[str]:
    return {
        " ".join(paragraph.split())
        for document in documents
        for paragraph in re.split(r"\n\s*\n", document.text)
    }


def test_is_the_same_every_time(corpus):
    assert standard_library_corpus(SMALL) == corpus


def test_holds_every_kind_on_both_sides(corpus):
    for documents in (corpus.train, corpus.held_out):
        assert {document.kind for document in documents} == set(TextKind)
    sizes = [sum(len(d.text) for d in side) for side in (corpus.train, corpus.held_out)]
    assert sizes[0] > 5 * sizes[1] > 0


def test_no_document_is_on_both_sides(corpus):
    train = {document.name for document in corpus.train}
    held_out = {document.name for document in corpus.held_out}
    assert len(train) == len(corpus.train)
    assert len(held_out) == len(corpus.held_out)
    assert not train & held_out


def test_no_long_paragraph_is_on_both_sides_or_repeated(corpus):
    shared = paragraphs(corpus.train) & paragraphs(corpus.held_out)
    assert [paragraph for paragraph in shared if len(paragraph) >= 40] == []


def test_sums_are_right(corpus):
    lines = [
        line
        for document in corpus.train
        if document.kind == TextKind.SUMS
        for line in document.text.splitlines()
    ]
    assert len(lines) > 100
    for line in lines:
        if "=" in line:
            left, right = line.split(" = ")
            a, sign, b = left.split()
            assert int(a) + (int(b) if sign == "+" else -int(b)) == int(right)
        else:
            numbers = [int(number) for number in re.findall(r"\d+", line)]
            assert len({b - a for a, b in itertools.pairwise(numbers)}) == 1


def test_documents_are_cut_and_none_is_empty(corpus):
    for document in (*corpus.train, *corpus.held_out):
        assert document.text.strip()
    prose = [d for d in corpus.train if d.kind == TextKind.PROSE]
    # Paragraphs are not cut, so a document may be longer than asked for, but few are.
    longer = [d for d in prose if len(d.text) > SMALL.document_characters + 2]
    assert len(longer) < len(prose) / 10


@pytest.mark.parametrize(
    "setting", ["keep_every", "code_every", "held_out_every", "document_characters"]
)
def test_counts_below_one_are_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} is 0"):
        CorpusSpec(**{setting: 0})


def test_holding_everything_out_is_refused():
    with pytest.raises(ValueError, match="nothing would be left"):
        CorpusSpec(held_out_every=1)
