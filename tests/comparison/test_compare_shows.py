"""What `mergekit-omp compare` shows: its table, sentences and page."""

from __future__ import annotations

import json
import re
from pathlib import Path

from comparing import compared, invoke
from merges import swap, write_config


def test_a_screen_of_80_columns_and_a_sentence_for_what_is_not_told_apart(
    base: Path, donor: Path, text: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "swap.yml", swap(base, donor, "mean"))
    # Two names for one method.
    asked = ("mean rescale_norms=false", "mean")
    done = invoke("compare", config, "--text", text, "--split", "line", *asked)
    assert done.exit_code == 0, done.output
    lines = done.stdout.split("\n")
    named = (str(base), str(config))
    assert all(len(line) <= 80 or any(name in line for name in named) for line in lines), lines
    assert asked[0] in lines, "a long name has a line of its own"
    said = " ".join(done.stdout.split())
    assert "merge_method: " in done.stdout
    result = compared(config, text, *asked)
    if result["not_told_apart"]:
        assert f"does not tell it apart from {' and '.join(result['not_told_apart'])}" in said
    else:
        assert f"{result['best']} is best" in said
    (pair,) = [p for p in result["differences"] if {p["model"], p["minus"]} == set(asked)]
    assert (pair["bits_per_byte"], pair["interval"], pair["clear"]) == (0, [0, 0], False)
    # What takes long is told on the other stream, and the body is merged once.
    assert done.stderr.count("merging the body: 100%") == 1
    assert "3 of 3: mean" in done.stderr


def test_a_page_with_the_same_figures(base: Path, donor: Path, text: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "swap <b>.yml", swap(base, donor, "mean"))
    page = tmp_path / "compared.html"
    words = (config, "--text", text, "--split", "line", "mean", "zett", "--html", page, "--json")
    done = invoke("compare", *words, "--quiet")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    held = page.read_text()
    for model in result["models"]:
        assert f"{model['bits_per_byte']:.4f}" in held
    assert "Left out: zett." in held and "swap &lt;b&gt;.yml" in held and "<b>" not in held
    assert held.count("<svg") == 1 and "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", held)
    # It is written over, and nothing else is.
    other = tmp_path / "notes.html"
    other.write_text("<p>mine")
    refused = invoke("compare", config, "--text", text, "--html", other)
    assert refused.exit_code == 1 and "Name another file with --html" in refused.stderr
    assert other.read_text() == "<p>mine"
    assert invoke("compare", *words, "--quiet").exit_code == 0


def test_with_one_document_there_is_no_interval(
    base: Path, donor: Path, text: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "swap.yml", swap(base, donor, "mean"))
    done = invoke("compare", config, "mean", "--text", text, "--split", "file")
    assert done.exit_code == 0, done.output
    assert "There is one document: cut the text" in " ".join(done.stdout.split())
    assert "One document gives no interval" in done.stderr
