"""Healing with a teacher: where both have read the same bytes, and what is compared there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from small_models import load

from mergekit_omp.cli import main
from mergekit_omp.healing.teaching import Teacher, lessons, stream, together
from mergekit_omp.healing.texts import windows

TEXT = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
DOCUMENTS = [TEXT[:3000], "Ünïcode, naïve: 12345 + 67890 = 80235.\n" * 9, TEXT[3000:6000]]


def test_both_have_read_the_same_bytes_at_every_place(
    real_tokenizer: Callable[[str], Any],
) -> None:
    mine, theirs = real_tokenizer("byte_level"), real_tokenizer("sentencepiece_bpe")
    cut = windows(mine, DOCUMENTS, 40, 2)
    found = lessons(stream(mine, DOCUMENTS, "mine"), stream(theirs, DOCUMENTS, "theirs"), cut)
    assert len(found) == len(cut)
    places = 0
    for lesson, window in zip(found, cut, strict=True):
        assert torch.equal(lesson["input_ids"], window)
        assert lesson["places"].max() < 40
        pairs = zip(lesson["places"].tolist(), lesson["teacher_places"].tolist(), strict=True)
        for place, other in pairs:
            places += 1
            read, other_read = (
                # Each has its own spaces around control tokens.
                "".join(tokenizer.decode(ids, skip_special_tokens=True).split())[-5:]
                for tokenizer, ids in (
                    (mine, window[: place + 1]),
                    (theirs, lesson["teacher_ids"][: other + 1]),
                )
            )
            shorter = min(len(read), len(other_read))
            # Half of a character is another sign in each.
            if "\ufffd" not in read + other_read:
                assert read[len(read) - shorter :] == other_read[len(other_read) - shorter :]
    # Words end alike in both, so that there are many places.
    assert places > 0.3 * cut.numel()


def test_a_model_is_at_no_distance_from_itself(base: Path) -> None:
    model, tokenizer = load(base)
    cut = windows(tokenizer, DOCUMENTS, 40, 2)
    both = stream(tokenizer, DOCUMENTS, "base")
    batch = together(lessons(both, both, cut)[:3])
    # The teacher begins at the first place of a window: so that both read the same, it is token 0.
    with torch.no_grad():
        states = model(input_ids=batch["input_ids"], output_hidden_states=True).hidden_states[-1]
        distance = Teacher(model).distance(states, batch)
        other = Teacher(model).distance(states.flip(1), batch)
    assert float(distance) < 1e-9 < float(other)


def test_a_teacher_is_followed_and_told(
    base: Path, donor: Path, tmp_path: Path, merge: Callable[..., Path]
) -> None:
    from merges import record, swap

    out, text = merge(swap(base, donor)), tmp_path / "text.txt"
    text.write_text(TEXT.replace("   ", ""), encoding="utf-8")
    words = ["heal", out, tmp_path / "healed", "--text", text]
    words += ["--steps", 8, "--every", 4, "--batch-size", 4, "--context", 32, "--teacher", base]
    done = CliRunner().invoke(main, [*map(str, words), "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    healing = json.loads(done.stdout)["healing"]
    assert healing["objective"] == "next token and the teacher's states"
    assert healing["settings"]["teacher"] == base.name
    assert record(tmp_path / "healed")["healing"] == [healing]
    assert healing["bits_per_byte"]["won"] > 0
    words[2] = tmp_path / "other"
    words[-1] = donor
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == 1 and "has hidden size 48, and the model 16" in done.output


@pytest.mark.parametrize("document", ["", "\n"])
def test_documents_of_nothing_are_streams(
    document: str, real_tokenizer: Callable[[str], Any]
) -> None:
    tokenizer = real_tokenizer("byte_level")
    found = stream(tokenizer, [document, "a"], "mine")
    assert len(found.ids) == len(found.ends)
