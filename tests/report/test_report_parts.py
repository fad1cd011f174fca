"""The parts of a report that need no merge: pairs, maps, texts of tokens, the file of row facts."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_omp.errors import TransplantError
from mergekit_omp.record import row_facts
from mergekit_omp.record.row_facts import Origin, RowFacts
from mergekit_omp.report.held_out import hidden_texts
from mergekit_omp.report.look_alikes import look_alikes
from mergekit_omp.report.tokens import shown

texts = st.lists(st.none() | st.binary(max_size=6), max_size=40)


@settings(max_examples=25)
@given(missing=texts, anchors=texts, count=st.integers(1, 30))
def test_pairs_hide_each_shared_token_once_and_no_control_token_is_paired(
    missing: list[bytes | None], anchors: list[bytes | None], count: int
) -> None:
    pairs = look_alikes(
        missing, np.arange(len(missing)), anchors, np.arange(len(anchors)) + 7, count
    )
    assert len(pairs.hidden) == len(pairs.missing) <= min(count, len(anchors), len(missing))
    assert len(set(pairs.hidden)) == len(pairs.hidden)
    assert len(set(pairs.missing)) == len(pairs.missing)
    assert all(missing[i] is not None for i in pairs.missing)


def test_pairs_are_alike_and_common_tokens_are_taken_more_often() -> None:
    missing = [b" word%d" % i if i % 2 else "漢字".encode() * (1 + i % 3) for i in range(1000)]
    anchors = [b" item%d" % i if i % 2 else "仮名".encode() * (1 + i % 3) for i in range(1000)]
    ids = np.arange(1000) * 10
    pairs = look_alikes(missing, ids, anchors, ids, 60)
    assert len(pairs.hidden) == 60
    for hidden, stood_for in zip(pairs.hidden, pairs.missing, strict=True):
        assert (hidden % 2) == (stood_for % 2)
        assert abs(len(anchors[hidden]) - len(missing[stood_for])) <= 3
    assert np.median(pairs.missing) < 350


def test_a_hidden_token_is_spelt_by_others(real_tokenizer: object) -> None:
    from mergekit_omp import Vocabulary

    vocabulary = Vocabulary.from_tokenizer(real_tokenizer("byte_level"), "model")  # type: ignore[operator]
    spelled = [i for i, text in enumerate(vocabulary.content) if text and len(text) > 3][:50]
    found = hidden_texts(vocabulary, vocabulary, vocabulary.size, spelled)
    pieces = found.segment_in_base([text for text in found.missing if text])
    for text, ids in zip(found.missing, pieces, strict=True):
        assert not set(ids) & set(spelled)
        assert b"".join(vocabulary.content[i] or b"" for i in ids) == text
    texts = [b"The value of an object", b" whatever the caller wants", "Straße".encode()]
    for text, ids in zip(texts, found.segment_in_base(texts), strict=True):
        assert not set(ids) & set(spelled)
        assert b"".join(vocabulary.content[i] or b"" for i in ids) == text
    assert all(found.base[i] is None for i in spelled)


@given(st.text() | st.binary())
def test_a_tokens_text_is_one_visible_line(token: str | bytes) -> None:
    text = shown(token)
    assert len(text) <= 40
    assert text.isprintable()
    assert not any(unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "RLI") for c in text)
    assert " " not in text


def test_texts_of_tokens_that_differ_are_told_apart() -> None:
    tokens = ["\n", "\\n", " ", "␣a", " a", "\xa0", "\u202e", "\x00"]
    assert len({shown(token) for token in tokens}) == len(tokens) - 1
    assert shown(b"\xff\xfe") == "\\xff\\xfe"


def test_facts_of_rows_come_back(tmp_path: Path) -> None:
    plan = SimpleNamespace(
        rows=9, copied=np.array([0, 3]), new=[np.array([1, 2])], without_donor_row=np.array([4])
    )
    facts = RowFacts.of(plan.rows, plan.copied, plan.new, plan.without_donor_row, [(5, None, 0)])
    facts.fit[[1, 2]] = 0.25
    entry = {"counts": {"rows": 9}}
    record = {"models": [{"tensors": []}, {"tensors": [entry, entry]}]}
    row_facts.save(str(tmp_path), {(1, 1): facts})
    loaded = row_facts.load(tmp_path, record)
    assert loaded is not None and list(loaded) == [(1, 1)]
    np.testing.assert_array_equal(loaded[1, 1].fit, facts.fit)
    assert [Origin(kind).name for kind in loaded[1, 1].origin[:7]] == [
        "COPIED",
        "APPROXIMATED",
        "APPROXIMATED",
        "COPIED",
        "WITHOUT_DONOR_ROW",
        "OVERRIDDEN",
        "PADDING",
    ]


def test_a_damaged_file_of_row_facts_is_named(tmp_path: Path) -> None:
    record: dict = {"models": []}
    assert row_facts.load(tmp_path, record) is None
    (tmp_path / row_facts.FILE_NAME).write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(TransplantError, match=f"{row_facts.FILE_NAME} is no archive"):
        row_facts.load(tmp_path, record)
