"""Hypernetworks beside the original: the pieces that tokens are cut into, and the rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from published_hypernetworks import CUT, MATRICES, TOKENS, change_tokenizer, matrices
from small_hypernetworks import NAMES, changed, expected, published
from torch import Tensor

from mergekit_omp.approximation import CodingInputs, MissingRows, Part, Texts
from mergekit_omp.approximation.chunks import working_memory
from mergekit_omp.approximation.hypernetwork.opened import OpenedHypernetwork
from mergekit_omp.approximation.norms import match_norms
from mergekit_omp.approximation.zett import Zett

LANGUAGES = [
    ("untied", None),
    ("tied_language", "en"),
    ("tied_language", "de"),
    ("single_head", None),
]


def test_every_token_is_cut_as_the_original_cuts_it(folder: Path) -> None:
    opened = OpenedHypernetwork.open(str(published(folder, "untied")), None)
    found = opened.segment(TOKENS)
    padded = [pieces + [2] * (CUT["maxlen"] - len(pieces)) for pieces in found.pieces]
    assert len(padded) == 760
    assert padded == CUT["matrix"]
    assert len(found.truncated) == CUT["truncated"]
    assert found.unspellable == []


@pytest.mark.parametrize(("name", "language"), LANGUAGES)
def test_rows_are_those_of_the_original(name: str, language: str | None, folder: Path) -> None:
    opened = OpenedHypernetwork.open(str(published(folder, name)), language)
    found = opened.predict(opened.segment(TOKENS), matrices(name))
    assert found.pop("places").tolist() == list(range(760))
    suffix = f".{language}" if language else ""
    wanted = {
        key.removesuffix(suffix): rows for key, rows in expected(name).items() if suffix in key
    }
    wanted = {"head_bias" if key == "bias" else key: rows for key, rows in wanted.items()}
    assert found.keys() == wanted.keys()
    for key, rows in wanted.items():
        torch.testing.assert_close(found[key].squeeze(1), rows, rtol=1e-5, atol=1e-5)


def test_little_memory_changes_nothing(folder: Path) -> None:
    opened = OpenedHypernetwork.open(str(published(folder, "untied")), None)
    segments = opened.segment(TOKENS)
    whole = opened.predict(segments, MATRICES)
    with working_memory(30_000):
        in_pieces = opened.predict(segments, MATRICES)
    for name, rows in in_pieces.items():
        torch.testing.assert_close(rows, whole[name], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("name", ["untied", "tied_language"])
def test_it_is_a_method_of_the_library(name: str, part: Part, folder: Path) -> None:
    language = "de" if name == "tied_language" else None
    method = Zett(hypernetwork=str(published(folder, name)), language=language)
    problem = _problem(name, part, [TOKENS[5], None, TOKENS[300], b""])
    rows = method.rows(problem)
    key = {Part.INPUT: "input", Part.HEAD: "head", Part.HEAD_BIAS: "bias"}[part]
    key = "input" if name == "tied_language" and part == Part.HEAD else key
    wanted = expected(name)[f"{key}.de" if language else key].reshape(760, -1)[[5, 300]]
    torch.testing.assert_close(rows[[0, 2]], wanted, rtol=1e-5, atol=1e-5)
    if part != Part.HEAD_BIAS:
        rescaled = method.model_copy(update={"rescale_norms": True}).rows(problem)
        torch.testing.assert_close(rescaled, match_norms(rows, problem.base))
    # A control token and one without bytes have no pieces.
    mean = problem.base.double().mean(0).float().expand(2, -1)
    torch.testing.assert_close(rows[[1, 3]], mean)


def _problem(name: str, part: Part, missing: list[bytes | None]) -> MissingRows:
    own = matrices(name)
    base = own.get(part, own[Part.INPUT])
    return MissingRows(
        part=part,
        base=base[:, :1] if part == Part.HEAD_BIAS else base,
        inputs=CodingInputs(
            missing=len(missing),
            anchor_rows=torch.arange(0),
            texts=Texts(missing, [], [], lambda _: [], lambda _: []),
        ),
        matrices=own,
    )


def test_the_library_says_what_it_lacks(folder: Path) -> None:
    path = str(published(folder, "untied"))
    problem = _problem("untied", Part.INPUT, [b"a"])
    with pytest.raises(ValueError, match="zett needs a `hypernetwork`"):
        Zett().rows(problem)
    with pytest.raises(ValueError, match="is for models whose head is a matrix of its own"):
        Zett(hypernetwork=path).rows(_problem("tied_language", Part.INPUT, [b"a"]))
    with pytest.raises(ValueError, match="give the problem its `matrices`"):
        Zett(hypernetwork=path).rows(MissingRows(Part.INPUT, problem.base, problem.inputs))


def test_a_base_row_that_is_not_finite_gives_the_mean_row(folder: Path) -> None:
    opened = OpenedHypernetwork.open(str(published(folder, "untied")), None)
    segments = opened.segment(TOKENS)
    spoilt = segments.pieces[700][0]
    entry = MATRICES[Part.INPUT].clone()
    entry[spoilt] = torch.nan
    found = opened.predict(segments, MATRICES | {Part.INPUT: entry})
    without = [i for i, pieces in enumerate(segments.pieces) if spoilt not in pieces]
    assert found["places"].tolist() == without
    assert len(without) < 760
    torch.testing.assert_close(found["input"], expected("untied")["input"][without])


def test_half_precision_weights(folder: Path, tmp_path: Path) -> None:
    def halve(weights: dict[str, Tensor]) -> None:
        weights.update({name: tensor.bfloat16() for name, tensor in weights.items()})

    path = changed(published(folder, "untied"), tmp_path / "half", weights=halve)
    opened = OpenedHypernetwork.open(str(path), None)
    found = opened.predict(opened.segment(TOKENS), MATRICES)["input"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected("untied")["input"], rtol=0.1, atol=0.02)


def test_pieces_past_the_networks_rows_cannot_be_spelled(folder: Path, tmp_path: Path) -> None:
    # Rows for ids 700 to 704 alone: 705 to 708 have none.
    def cut(weights: dict[str, Tensor]) -> None:
        weights["fallback_embeddings.weight"] = weights["fallback_embeddings.weight"][:5].clone()

    path = changed(
        published(folder, "untied"), tmp_path / "cut", config={"hn_n_extra_tokens": 5}, weights=cut
    )
    opened = OpenedHypernetwork.open(str(path), None)
    tokens = [TOKENS[300], None, b"\xe2\x80", b"\xff", b""]
    found = opened.segment(tokens)
    assert found.unspellable == [2, 4]
    assert [bool(pieces) for pieces in found.pieces] == [True, False, False, True, False]
    predicted = opened.predict(found, MATRICES)
    assert predicted["places"].tolist() == [0, 3]
    torch.testing.assert_close(
        predicted["input"][0], expected("untied")["input"][300], rtol=1e-5, atol=1e-5
    )
    whole = OpenedHypernetwork.open(str(published(folder, "untied")), None)
    assert whole.segment(tokens).pieces[2] == [705]
    assert whole.segment(tokens).unspellable == [4]


def test_dropout_of_training_is_off(folder: Path, tmp_path: Path) -> None:
    path = changed(published(folder, "untied"), tmp_path / "dropout")
    change_tokenizer(path, lambda model: model.update(dropout=0.9))
    opened = OpenedHypernetwork.open(str(path), None)
    padded = [p + [2] * (7 - len(p)) for p in opened.segment(TOKENS).pieces]
    assert padded == CUT["matrix"]


@pytest.mark.parametrize("name", NAMES)
def test_its_cost_grows_with_what_it_reads(name: str, folder: Path) -> None:
    opened = OpenedHypernetwork.open(
        str(published(folder, name)), "en" if name == "tied_language" else None
    )
    short, long = opened.segment([b"a"]), opened.segment([b"a b c d"])
    assert 0 < opened.cost(short).multiply_adds < opened.cost(long).multiply_adds
    assert opened.cost(short).bytes > 4 * opened.weights.size
