"""`subword`: the rules by example, bytes, control tokens."""

from __future__ import annotations

import pytest
import torch
from approximation_world import BASE, segmenter, with_inputs, world
from mergekit.tokensurgeon.subword import SubwordMethod, subword_approximate

from mergekit_omp.approximation import CodingInputs, MissingRows, Part, Texts
from mergekit_omp.approximation.subword import Subword

BASE_TEXTS = [None, b"a", b"b", b"c", b"\xc3", b"\xa9"]


def problem(*missing: bytes | None, part: Part = Part.INPUT) -> MissingRows:
    base = torch.eye(len(BASE_TEXTS), dtype=torch.float64) * 4
    texts = Texts(
        missing=missing,
        base=BASE_TEXTS,
        donor=missing,
        segment_in_base=segmenter(BASE_TEXTS),
        segment_in_donor=segmenter(missing),
    )
    return MissingRows(
        part=part,
        base=base,
        inputs=CodingInputs(missing=len(missing), anchor_rows=torch.arange(0), texts=texts),
    )


@pytest.mark.parametrize(
    ("rule", "part", "weights"),
    [
        ("mean", Part.INPUT, [1 / 3, 1 / 3, 1 / 3]),
        ("mean", Part.HEAD, [1 / 3, 1 / 3, 1 / 3]),
        ("first", Part.INPUT, [1, 0, 0]),
        ("last", Part.HEAD, [0, 0, 1]),
        ("weighted", Part.HEAD, [4 / 7, 2 / 7, 1 / 7]),
        ("weighted", Part.HEAD_BIAS, [4 / 7, 2 / 7, 1 / 7]),
        ("weighted", Part.INPUT, [1 / 7, 2 / 7, 4 / 7]),
    ],
)
def test_rules_by_example(rule: str, part: Part, weights: list[float]) -> None:
    other = "first" if rule != "first" else "last"
    input_, head = (rule, other) if part == Part.INPUT else (other, rule)
    rows = Subword(input=input_, head=head).rows(problem(b"abc", part=part))
    assert rows[0, 1:4].tolist() == pytest.approx([4 * weight for weight in weights])
    assert not rows[0, [0, 4, 5]].any()


def test_defaults_are_mean_for_the_input_and_front_loaded_for_the_head() -> None:
    assert Subword().rows(problem(b"ab"))[0].tolist() == [0, 2, 2, 0, 0, 0]
    head = Subword().rows(problem(b"ab", part=Part.HEAD))[0]
    assert head.tolist() == pytest.approx([0, 8 / 3, 4 / 3, 0, 0, 0])


@pytest.mark.parametrize(
    ("decay", "weights"), [(0.0, [1, 0, 0]), (0.25, [16 / 21, 4 / 21, 1 / 21]), (1.0, [1 / 3] * 3)]
)
def test_decay_goes_from_the_first_piece_to_the_mean(decay: float, weights: list[float]) -> None:
    head = Subword(decay=decay).rows(problem(b"abc", part=Part.HEAD))[0, 1:4]
    assert head.tolist() == pytest.approx([4 * weight for weight in weights])
    into = Subword(input="weighted", decay=decay).rows(problem(b"abc"))[0, 1:4]
    assert into.tolist() == pytest.approx([4 * weight for weight in reversed(weights)])


def test_a_piece_that_repeats_counts_each_time() -> None:
    assert Subword().rows(problem(b"aab"))[0].tolist() == pytest.approx([0, 8 / 3, 4 / 3, 0, 0, 0])


def test_bytes_are_segmented_as_bytes() -> None:
    whole, half = Subword().rows(problem("é".encode(), b"\xa9"))
    assert whole.tolist() == [0, 0, 0, 0, 2, 2]
    assert half.tolist() == [0, 0, 0, 0, 0, 4]


def test_control_tokens_and_what_cannot_be_spelled_get_the_mean() -> None:
    rows = Subword().rows(problem(None, b"z", b"", b"a"))
    assert torch.allclose(rows[:3], torch.full((3, 6), 4 / 6, dtype=torch.float64))
    assert rows[3].tolist() == [0, 4, 0, 0, 0, 0]


def test_control_tokens_never_reach_the_tokenizer() -> None:
    seen: list[bytes] = []

    def spy(texts: object) -> list[list[int]]:
        seen.extend(texts)  # type: ignore[call-overload]
        return [[1]] * len(texts)  # type: ignore[arg-type]

    spied = world()
    missing = [b"<|x|>", None, b"a"]
    texts = Texts(
        missing=missing, base=BASE, donor=missing, segment_in_base=spy, segment_in_donor=spy
    )
    Subword().rows(with_inputs(spied, missing=3, texts=texts))
    assert seen == [b"<|x|>", b"a"]


def test_pieces_without_a_usable_row_are_left_out() -> None:
    broken = problem(b"abc", b"b")
    broken.base[2] = float("nan")
    rows = Subword(input="weighted").rows(broken)
    assert rows[0].tolist() == pytest.approx([0, 4 / 3, 0, 8 / 3, 0, 0])
    assert rows[1].isfinite().all()


class Letters:
    """A tokenizer as `subword_approximate` calls it."""

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": segmenter(BASE_TEXTS)([text.encode()])[0]}


@pytest.mark.parametrize(
    ("method", "part", "theirs"),
    [
        (Subword(input="mean"), Part.INPUT, SubwordMethod.MEAN),
        (Subword(head="mean"), Part.HEAD, SubwordMethod.MEAN),
        (Subword(input="last"), Part.INPUT, SubwordMethod.FIRST_LAST),
        (Subword(head="first"), Part.HEAD, SubwordMethod.FIRST_LAST),
    ],
)
def test_rules_shared_with_tokensurgeon(method: Subword, part: Part, theirs: SubwordMethod) -> None:
    words = ["abc", "b", "cab"]
    ours = problem(*(word.encode() for word in words), part=part)
    expected = subword_approximate(ours.base, words, part == Part.HEAD, Letters(), theirs)
    torch.testing.assert_close(method.rows(ours), expected)
