"""Word vectors from files: what is read, how tokens are looked up, what stands in."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from approximation_world import DONOR_ONLY, SHARED, without_donor, world
from entmax import sparsemax as entmax_sparsemax
from safetensors.torch import save_file
from sklearn.metrics.pairwise import cosine_similarity

from mergekit_omp.approximation import Needs, Part
from mergekit_omp.approximation.auxiliary import load_vectors
from mergekit_omp.approximation.clp import Clp
from mergekit_omp.approximation.focus import Focus
from mergekit_omp.approximation.moments import moments
from mergekit_omp.approximation.wechsel import Wechsel

METHODS = [Wechsel, Focus, Clp]
every_method = pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.name)


def write_text(path: Path, words: dict[str, list[float]]) -> Path:
    dim = len(next(iter(words.values())))
    lines = [f"{len(words)} {dim}"]
    # fastText ends its lines with a space.
    lines += [f"{word} {' '.join(map(str, vector))} " for word, vector in words.items()]
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def vectors_of(texts: list[bytes], seed: int = 0) -> dict[str, list[float]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        text.decode(): (torch.randn(5, generator=generator) + 1).tolist()
        for text in sorted(set(texts))
    }


def stripped(texts: list[bytes]) -> list[bytes]:
    return [text.strip() for text in texts]


@pytest.mark.parametrize("ending", [".vec", ".vec.gz", ".safetensors"])
def test_formats_hold_the_same(tmp_path: Path, ending: str) -> None:
    words = {"the": [1.5, -2.0], "naïve": [0.25, 1e-3], "日本": [3.0, 4.0]}
    path = tmp_path / f"words{ending}"
    if ending == ".safetensors":
        save_file({word: torch.tensor(vector) for word, vector in words.items()}, path)
    else:
        write_text(path, words)
    tokens = [b"the", " naïve".encode(), None, "日本".encode(), b"\xff", b"absent"]
    vectors, usable = load_vectors(str(path), tokens)
    assert usable.tolist() == [True, True, False, True, False, False]
    expected = [words["the"], words["naïve"], [0, 0], words["日本"], [0, 0], [0, 0]]
    torch.testing.assert_close(vectors, torch.tensor(expected))


def test_the_most_exact_spelling_is_taken(tmp_path: Path) -> None:
    keys = {" a": [1.0], "▁b": [2.0], "b": [3.0], "c": [4.0], "a": [5.0]}
    path = tmp_path / "words.safetensors"
    save_file({word: torch.tensor(vector) for word, vector in keys.items()}, path)
    vectors, _ = load_vectors(str(path), [b" a", b" b", b" c", b"a", b"b\n"])
    assert vectors[:, 0].tolist() == [1, 2, 4, 5, 3]


def test_zero_vectors_and_vectors_that_are_not_finite_are_none(tmp_path: Path) -> None:
    path = write_text(tmp_path / "w.vec", {"a": [0.0, 0.0], "b": [float("nan"), 1], "c": [1, 1]})
    vectors, usable = load_vectors(str(path), [b"a", b"b", b"c"])
    assert usable.tolist() == [False, False, True]
    assert vectors.isfinite().all()


def test_the_first_of_two_lines_of_a_word_counts(tmp_path: Path) -> None:
    path = tmp_path / "w.vec"
    path.write_text("3 2\na 1 2\na 3 4\nNew York 5 6\n")
    vectors, _ = load_vectors(str(path), [b"a", b"New York"])
    assert vectors.tolist() == [[1, 2], [5, 6]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.vec", None, "there is no such file"),
        ("w.bin", b"\x00", r"'\.bin' is none of \.vec, \.vec\.gz and \.safetensors"),
        ("w.vec", b"a 1 2\n", "line 1 is not `count dimension`"),
        ("w.vec", b"2 2\na 1 2 \nb 1\n", "line 3 is not a word and 2 numbers"),
        ("w.vec", b"2 2\na 1 x \n", "line 2 is not a word and 2 numbers"),
        ("w.vec", b"1 2\nz 1 2\n", "none of the 2 tokens looked up is in the file"),
        ("w.vec.gz", b"no gzip", "cannot be read"),
        ("w.safetensors", b"no header", "cannot be read"),
    ],
)
def test_bad_files_are_named(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        load_vectors(str(path), [b"a", b"b"])
    assert str(path) in str(raised.value)


def test_tensors_of_several_shapes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2), "b": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=re.escape("shapes (2,), (3,)")):
        load_vectors(str(path), [b"a", b"b"])


@every_method
def test_vectors_make_the_donor_superfluous(kind: type[Focus], tmp_path: Path) -> None:
    path = write_text(tmp_path / "w.vec", vectors_of(stripped([*DONOR_ONLY, *SHARED])))
    method = kind(auxiliary=str(path))
    assert Needs.DONOR_ROWS not in method.needs
    problem = world()
    rows = method.rows(without_donor(problem))
    assert rows.isfinite().all()
    assert torch.equal(rows, method.rows(problem))
    assert not torch.allclose(rows, kind().rows(problem))
    assert {method.space_part(part) for part in Part} == {Part.INPUT}


def test_focus_by_vectors_is_sparsemax_over_their_cosines(tmp_path: Path) -> None:
    words = vectors_of(stripped([*DONOR_ONLY, *SHARED]))
    missing_word = words.pop("abcd")
    absent_anchor = words.pop("gh")
    assert missing_word and absent_anchor
    path = write_text(tmp_path / "w.vec", words)
    problem = without_donor(world())
    rows = Focus(auxiliary=str(path)).rows(problem)
    anchors = [token for token in SHARED if token.decode().strip() in words]
    targets = [token for token in DONOR_ONLY if token.decode().strip() in words]
    cosines = cosine_similarity(
        [words[token.decode().strip()] for token in targets],
        [words[token.decode().strip()] for token in anchors],
    )
    weights = entmax_sparsemax(torch.from_numpy(cosines))
    images = problem.base[[problem.inputs.texts.base.index(token) for token in anchors]]
    places = [problem.inputs.texts.missing.index(token) for token in targets]
    np.testing.assert_allclose(rows[places], weights.numpy() @ images.numpy(), atol=1e-5)


@every_method
def test_tokens_without_a_vector_get_a_seeded_sample(kind: type[Focus], tmp_path: Path) -> None:
    path = write_text(tmp_path / "w.vec", vectors_of(stripped(SHARED)))
    problem = without_donor(world())
    rows = kind(auxiliary=str(path)).rows(problem)
    assert torch.equal(rows, kind(auxiliary=str(path)).rows(problem))
    other = kind(auxiliary=str(path), seed=1).rows(problem)
    coded = [
        token is not None and token.strip() in stripped(SHARED)
        for token in problem.inputs.texts.missing
    ]
    assert (rows == other).all(1).tolist() == coded
    assert sum(coded) == 1  # " abc", by its text without the space
    mean, deviation = moments(problem.base)
    sampled = (rows[~torch.tensor(coded)] - mean) / deviation
    assert sampled.abs().max() < 5
    assert 0.5 < sampled.std() < 1.5


@every_method
def test_vectors_for_no_anchor_is_an_error(kind: type[Focus], tmp_path: Path) -> None:
    path = write_text(tmp_path / "w.vec", vectors_of([b"abcd", b"efgh"]))
    with pytest.raises(ValueError, match=rf"{kind.name}: none of the \d+ tokens"):
        kind(auxiliary=str(path)).rows(without_donor(world()))
