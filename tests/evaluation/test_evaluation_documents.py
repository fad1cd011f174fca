"""How texts are cut into documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_omp.evaluation.documents import DOCUMENT_BYTES, _paragraphs, read_documents


@given(st.text(alphabet="ab \r\n\té", max_size=60), st.integers(1, 60))
def test_paragraphs_are_the_text_and_none_is_short_but_a_whole_text(text: str, repeat: int) -> None:
    whole = (text + "\n\nword " * 20) * repeat
    documents = _paragraphs(whole)
    assert "".join(documents) == whole
    if len(documents) > 1:
        assert min(len(document.encode()) for document in documents) >= DOCUMENT_BYTES


def test_what_a_document_is(tmp_path: Path) -> None:
    paragraph = "x" * DOCUMENT_BYTES
    paths = [tmp_path / f"{i}.txt" for i in range(10)]
    for path in paths:
        path.write_bytes(f"{paragraph}\r\n\r\n{paragraph}\n\nend".encode())
    whole = f"{paragraph}\r\n\r\n{paragraph}\n\nend"
    halves = (f"{paragraph}\r\n\r\n", f"{paragraph}\n\nend")
    assert read_documents(paths) == read_documents(paths, "file")
    assert read_documents(paths).documents == (whole,) * 10
    few = read_documents(paths[:2])
    assert (few.split, few.documents) == ("paragraph", halves * 2)
    assert read_documents(paths[:1], "line").documents == (paragraph, paragraph, "end")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for data, message in (
        ("text".encode("utf-16-le"), "it may be UTF-16"),
        ("text".encode("utf-16"), "is not UTF-8"),
        (bytes(range(256)), "is not UTF-8"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_documents([path])


def test_json_lines_are_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one\\n\\ntwo"}\n\n{"text": "", "id": 3}\n{"text": "é"}\n')
    assert read_documents([path]).documents == ("one\n\ntwo", "é")
    for line, message in (("{", "is not JSON"), ('{"txt": "a"}', 'has no "text"')):
        path.write_text(json.dumps({"text": "a"}) + "\n" + line + "\n")
        with pytest.raises(ValueError, match=rf"a\.jsonl, line 2, {message}"):
            read_documents([path])
