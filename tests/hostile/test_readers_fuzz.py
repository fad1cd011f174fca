"""Readers of other tools' files on whatever hypothesis makes of them: a value, or a sentence."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_omp.errors import TransplantError
from mergekit_omp.evaluation.documents import read_documents
from mergekit_omp.models.weight_files import check_weights
from mergekit_omp.outside import display
from mergekit_omp.outside.archives import read_arrays
from mergekit_omp.outside.files import read_json, read_yaml
from mergekit_omp.record.id_ranges import read, written
from mergekit_omp.record.reading import read_record
from mergekit_omp.transplant.token_ids import moved

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([-1, 1 << 31, 1 << 63, 1 << 70, "", "0-99999999999"])
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
RECORD: dict[str, Any] = {
    "format": 1,
    "merge_method": "omp",
    "approximation": "omp",
    "base_model": "base",
    "output": {"tokenizer_source": "donor", "tokens": 5, "vocab_size": 5},
    "models": [
        {
            "model": "base",
            "tensors": [
                {
                    "tensor": "lm_head.weight",
                    "part": "head",
                    "method": "omp",
                    "parameters": {"k": 4},
                    "donors": [
                        {"model": "donor", "tensor": "lm_head.weight", "missing": 2, "anchors": 3}
                    ],
                    "counts": {"rows": 5, "copied": 3, "approximated": 2},
                    "relative_residual": {"mean": 0.1, "median": 0.1, "p95": 0.1, "max": 0.1},
                }
            ],
            "approximated_ids": "3-4",
        }
    ],
    "warnings": [],
    "versions": {"python": "3.11"},
}


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, the whole first."""
    inner = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


@st.composite
def spoilt_records(draw: st.DrawFn) -> Any:
    """The record with anything in the place of any part, or without it."""
    content = copy.deepcopy(RECORD)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(places(content)))
        if not place:
            return draw(anything)
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        if draw(st.booleans()):
            inner[place[-1]] = draw(anything)
        else:
            del inner[place[-1]]
    return content


def in_file(data: bytes, name: str, read_it: Any) -> Any:
    """What a reader makes of a file with these bytes; None where it refuses them in a sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            return read_it(path)
        except TransplantError as error:
            refusal = error
    assert name in refusal.message
    assert refusal.message.endswith(".")
    assert refusal.format_message().isprintable()
    return None


@settings(max_examples=150)
@given(spoilt_records())
def test_a_record_is_whole_or_refused(content: Any) -> None:
    data = json.dumps(content).encode()
    found = in_file(data, "tokenizer_transplant.json", read_record)
    if found is not None:
        assert all(entry["counts"]["rows"] >= 0 for m in found["models"] for entry in m["tensors"])


@settings(max_examples=100)
@given(st.binary(max_size=60) | st.text(alphabet='[]{}":,0123456789aé\n\\u', max_size=60))
def test_json_and_yaml_of_any_bytes(data: bytes | str) -> None:
    data = data.encode() if isinstance(data, str) else data
    found = in_file(data, "config.json", lambda path: read_json(path, dict))
    assert found is None or isinstance(found, dict)
    in_file(data, "config.yml", read_yaml)


def archive() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        **{"origin.0.0": np.arange(9, dtype=np.int8), "residual.0.0": np.zeros(9, np.float32)},
    )
    return stream.getvalue()


ARCHIVE = archive()
WANTED = {"origin.0.0": (np.dtype(np.int8), 9), "residual.0.0": (np.dtype(np.float32), 9)}


@settings(max_examples=150)
@given(st.integers(0, len(ARCHIVE) - 1), st.binary(max_size=8), st.integers(0, 20))
def test_an_archive_is_whole_or_refused(at: int, new: bytes, dropped: int) -> None:
    data = ARCHIVE[:at] + new + ARCHIVE[at + dropped :]
    found = in_file(data, "facts.npz", lambda path: read_arrays(path, WANTED, "Merge again."))
    for array in (found or {}).values():
        assert array.shape == (9,)


@settings(max_examples=100)
@given(st.text(max_size=30) | st.text(alphabet="0123456789- ", max_size=30))
def test_ranges_of_ids_are_read_or_refused(text: str) -> None:
    try:
        found = read(text, 1000)
    except ValueError:
        return
    assert ((found >= 0) & (found < 1000)).all()
    assert read(written(found), 1000).tolist() == found.tolist()


def weights() -> bytes:
    header = json.dumps(
        {
            name: {"dtype": "F32", "shape": [2], "data_offsets": [8 * i, 8 * i + 8]}
            for i, name in enumerate("ab")
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


WEIGHTS = weights()


@settings(max_examples=100)
@given(st.integers(0, len(WEIGHTS) - 1), st.binary(max_size=8), st.integers(0, 20))
def test_weights_are_whole_or_refused(at: int, new: bytes, dropped: int) -> None:
    data = WEIGHTS[:at] + new + WEIGHTS[at + dropped :]
    in_file(data, "model.safetensors", lambda path: check_weights(path.parent, "The model"))


@settings(max_examples=60)
@given(anything)
def test_an_index_is_whole_or_refused(content: Any) -> None:
    data = json.dumps({"weight_map": content}).encode()
    # No shard is there, so that every index is refused.
    assert not in_file(
        data, "model.safetensors.index.json", lambda p: check_weights(p.parent, "The model")
    )


@settings(max_examples=100)
@given(
    st.sampled_from(
        ["bad_words_ids", "sequence_bias", "forced_decoder_ids", "suppress_tokens", "eos_token_id"]
    ),
    anything,
)
def test_token_ids_of_any_shape(key: str, value: Any) -> None:
    lost: list[int] = []
    with contextlib.suppress(ValueError):
        moved(key, value, lambda i: i if i < 100 else None, lost, keep_lost=False)
    assert all(isinstance(i, int) for i in lost)


@settings(max_examples=60)
@given(st.binary(max_size=80), st.sampled_from(["a.txt", "a.jsonl"]))
def test_texts_are_read_or_refused(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            found = read_documents([path]).documents
        except ValueError as error:
            found, said = (), str(error)
    assert any(document.strip() for document in found) or name in said


@given(st.text())
def test_what_is_shown_can_be_seen(text: str) -> None:
    assert display.visible(text).isprintable()
    assert all(line.isprintable() for line in display.on_terminal(text).split("\n"))
    assert display.in_markdown(text).isprintable()
    assert "<" not in display.in_markdown(text).replace("\\<", "")
    assert "|" not in display.as_markdown_code(text).replace("\\|", "")
    shown = display.as_json({text: [text]})
    assert all(line.isprintable() for line in shown.split("\n"))
    assert json.loads(shown) == {text: [text]}


@given(st.text(alphabet="`a\n", max_size=40))
def test_a_block_of_markdown_is_not_ended_from_within(text: str) -> None:
    first, *inner, last = display.markdown_block(text, "yaml").split("\n")
    assert first == f"{last}yaml"
    assert last not in inner
