"""The rows of n-grams, against the paper's formula in plain integers."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_omp.growth.ngrams import ExactRows, OverEncoding, windows

BASE = 1 << 18
ids = st.lists(st.integers(0, BASE - 1), min_size=1, max_size=9)


def oracle(sequence: list[int], at: int, order: int, rows: int) -> int:
    """Python's integers do not wrap."""
    return sum(sequence[at - j] * BASE**j for j in range(order) if at >= j) % rows


@given(ids, st.integers(1, 6), st.sampled_from([1_000_003, 65_521, (1 << 40) - 87]))
def test_the_hash_is_the_papers(sequence: list[int], order: int, rows: int) -> None:
    coding = OverEncoding({"hash_base": BASE, "width": 1, "tables": []}, 1)
    known = windows(torch.tensor([sequence]), order)
    found = coding.hashed(known, order, rows)[0].tolist()
    assert found == [oracle(sequence, at, order, rows) for at in range(len(sequence))]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), min_size=1, max_size=9),
    st.integers(1, 4),
)
def test_windows_end_at_padding_and_at_starts(
    tokens: list[tuple[int, bool, bool]], longest: int
) -> None:
    """Token by token: go back until padding, or past a token that begins a sequence."""
    sequence, attended, starts = (torch.tensor([column]) for column in zip(*tokens, strict=True))
    found = windows(sequence, longest, attended, starts)[0].tolist()
    for at, row in enumerate(found):
        expected, here = [], at
        while len(expected) < longest and here >= 0 and tokens[here][1]:
            expected.append(tokens[here][0])
            if tokens[here][2]:
                break
            here -= 1
        assert row == expected + [-1] * (longest - len(expected))


@given(
    st.sets(st.lists(st.integers(0, 3), min_size=2, max_size=4).map(tuple), min_size=1, max_size=9),
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
)
def test_exact_rows_are_those_of_the_longest_ngram(
    entries: set[tuple[int, ...]], sequence: list[int]
) -> None:
    order = sorted(entries)
    entry = {"entries": len(order), "rows": len(order), "longest": 4, "share": 1.0, "own": 0.0}
    table = ExactRows(entry, 1)
    last_first = torch.tensor([[*reversed(e), *[-1] * (4 - len(e))] for e in order])
    keys = ExactRows.key_of(last_first)
    by_key = keys.argsort()
    table.keys, table.ngrams = keys[by_key], last_first[by_key]
    table.rows = torch.arange(len(order))[by_key]
    found = table.find(windows(torch.tensor([sequence]), 4))[0].tolist()
    for at, row in enumerate(found):
        ends = [e for e in order if tuple(sequence[max(0, at + 1 - len(e)) : at + 1]) == e]
        assert row == (order.index(max(ends, key=len)) if ends else -1)
