"""`mergekit-omp evaluate` on real swaps of small models, against sums made by hand."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from merges import merge_here, swap
from small_models import load, matrices
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mergekit_omp.cli import main
from mergekit_omp.evaluation.harness import run_tasks

TEXT = "\n\n".join(
    f"The {word} of the house said: return {word}[{number}] if it is not None, else {number}.\n"
    "A class, a function — naïve, and 12345 more; über alles."
    for number, word in enumerate(["list", "module", "object", "string", "value"] * 4)
)
SPELLED = {character: byte for byte, character in bytes_to_unicode().items()}


@pytest.fixture(scope="module")
def folder(base: Path, donor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two swaps and a text."""
    folder = tmp_path_factory.mktemp("evaluate")
    for method in ("mean", "zero"):
        assert merge_here(swap(base, donor, method), folder / method).status == 0
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def as_json(*arguments: str | Path) -> dict[str, Any]:
    done = run(*arguments, "--json", "--quiet")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def bits_by_token(path: Path, text: str) -> tuple[list[int], list[float], list[int]]:
    """ids, bits and predictions through plain transformers, the whole text at once."""
    model, tokenizer = load(path)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([[tokenizer.bos_token_id, *ids]])).logits[0, :-1].double()
    losses = torch.log_softmax(logits, 1)[torch.arange(len(ids)), ids] / -math.log(2)
    return ids, losses.tolist(), logits.argmax(1).tolist()


def test_the_figures_are_those_of_plain_transformers(folder: Path, base: Path) -> None:
    text = TEXT[:300]
    file = folder / "short.txt"
    file.write_text(text, encoding="utf-8")
    result = as_json(folder / "mean", "--text", file, "--context", "256")
    assert result["text"]["bytes"] == len(text.encode())
    assert [model["model"] for model in result["models"]] == [str(base), str(folder / "mean")]
    for model in result["models"]:
        _, bits, _ = bits_by_token(Path(model["model"]), text)
        assert model["bits_per_byte"] == pytest.approx(sum(bits) / len(text.encode()), rel=1e-4)
        assert model["tokens"] == len(bits)


def test_shared_and_approximated_tokens_are_told_by_their_rows(folder: Path, base: Path) -> None:
    text = TEXT[:300]
    file = folder / "short.txt"
    file.write_text(text, encoding="utf-8")
    out = folder / "mean"
    (found,) = [
        model for model in as_json(out, "--text", file)["models"] if model["model"] == str(out)
    ]
    ids, bits, _ = bits_by_token(out, text)
    rows, _ = matrices(out)
    own = {tuple(row) for row in matrices(base)[0].tolist()}
    _, tokenizer = load(out)
    for key, shared in (("shared", True), ("approximated", False)):
        places = [
            i for i, token in enumerate(ids) if (tuple(rows[token].tolist()) in own) == shared
        ]
        size = sum(
            len(bytes(SPELLED[c] for c in tokenizer.convert_ids_to_tokens(ids[i]))) for i in places
        )
        assert places
        assert (found[key]["tokens"], found[key]["bytes"]) == (len(places), size)
        assert found[key]["bits_per_byte"] == pytest.approx(
            sum(bits[i] for i in places) / size, rel=1e-4
        )
    assert found["shared"]["bytes"] + found["approximated"]["bytes"] == len(text.encode())


def test_a_model_agrees_with_itself_and_a_swap_with_itself_as_base(
    folder: Path, base: Path
) -> None:
    same = swap(base, base, "mean")
    copy = folder / "same"
    assert merge_here(same, copy).status == 0
    result = as_json(copy, folder / "zero", "--text", folder / "text.txt", "--split", "line")
    by_name = {model["model"]: model for model in result["models"]}
    assert by_name[str(copy)]["agreement"]["top1"] == 1.0
    assert by_name[str(copy)]["bits_per_byte"] == by_name[str(base)]["bits_per_byte"]
    assert by_name[str(base)]["agreement"] is None
    assert 0 <= by_name[str(folder / "zero")]["agreement"]["top1"] < 1
    (equal,) = [
        pair
        for pair in result["differences"]
        if {pair["model"], pair["minus"]} == {str(copy), str(base)}
    ]
    assert (equal["bits_per_byte"], equal["interval"], equal["clear"]) == (0, [0, 0], False)


def test_agreement_counts_places_where_both_segment_alike(folder: Path, base: Path) -> None:
    text = "the list of the module"
    file = folder / "few.txt"
    file.write_text(text, encoding="utf-8")
    out = folder / "zero"
    found = as_json(out, "--text", file)["models"][1]["agreement"]
    places: list[dict[tuple[int, int], bytes]] = []
    for path in (base, out):
        _, tokenizer = load(path)
        ids, _, predicted = bits_by_token(path, text)
        pieces = [tokenizer.convert_ids_to_tokens(i) for i in ids]
        if path == base:
            content = [piece.replace("▁", " ").encode() for piece in pieces]
            content[0] = content[0].removeprefix(b" ")
            best = [
                tokenizer.convert_ids_to_tokens(i).replace("▁", " ").encode() for i in predicted
            ]
        else:
            content = [bytes(SPELLED[c] for c in piece) for piece in pieces]
            best = [
                bytes(SPELLED.get(c, 0) for c in tokenizer.convert_ids_to_tokens(i))
                for i in predicted
            ]
        assert b"".join(content) == text.encode()
        ends = [sum(map(len, content[: i + 1])) for i in range(len(content))]
        places.append(dict(zip(zip([0, *ends], ends, strict=False), best, strict=True)))
    alike = [span for span in places[0] if span in places[1] and span[0] > 0]
    assert alike
    assert found["places"] == len(alike)
    assert found["top1"] == pytest.approx(
        sum(places[0][span] == places[1][span] for span in alike) / len(alike)
    )


def test_same_input_same_bytes_and_neither_batches_nor_order_matter(folder: Path) -> None:
    names = [folder / "mean", folder / "zero"]
    text = ("--text", folder / "text.txt", "--split", "line", "--context", "32")
    first = run(*names, *text, "--json", "--quiet").stdout
    assert first == run(*names, *text, "--json", "--quiet").stdout
    one = json.loads(first)
    other = as_json(*reversed(names), *text, "--batch-size", "1")
    for model in one["models"]:
        (same,) = [m for m in other["models"] if m["model"] == model["model"]]
        assert same["bits_per_byte"] == pytest.approx(model["bits_per_byte"], rel=1e-5)
        assert same["interval"] == pytest.approx(model["interval"], rel=1e-5)
        low, high = model["interval"]
        assert low < model["bits_per_byte"] < high


def test_without_the_record_the_base_tells_what_is_approximated(
    folder: Path, base: Path, donor: Path, tmp_path: Path
) -> None:
    out = folder / "zero"
    text = ("--text", folder / "text.txt")
    recorded = as_json(out, *text)["models"][1]
    record = (out / "tokenizer_transplant.json").rename(tmp_path / "record.json")
    try:
        alone = as_json(out, *text)
        derived = as_json(out, *text, "--base", base)["models"][1]
    finally:
        record.rename(out / "tokenizer_transplant.json")
    assert [model["approximated"] for model in alone["models"]] == [None]
    assert derived == recorded


def test_the_terminal_shows_a_table_of_80_columns_and_who_beats_whom(
    folder: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(folder)
    done = run("mean", "zero", "--text", "text.txt", "--text", "text.txt", "--split", "line")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"{2 * len([x for x in TEXT.splitlines() if x])} documents, ")
    rows = {line.split()[0]: line for line in lines if line.endswith("%")}
    assert rows.keys() == {"mean", "zero"}
    result = as_json("mean", "zero", "--text", "text.txt", "--split", "line")
    for model in result["models"][1:]:
        assert f"{model['bits_per_byte']:.4f}" in rows[model["model"]]
    clear = [pair for pair in result["differences"] if pair["clear"]]
    assert done.stdout.count(" beats ") == len(clear)


def test_the_installed_command_takes_several_files_and_tells_progress_apart(
    folder: Path,
) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "a.txt").write_text(TEXT, encoding="utf-8")
    (folder / "more" / "b.jsonl").write_text(json.dumps({"text": "A line."}))
    (folder / "more" / "notes.md").write_text("Not a text to read.")
    command = Path(sys.executable).with_name("mergekit-omp")
    arguments = ["mean", "--text", "text.txt", "--text", "more", "--json", "--device", "cpu"]
    done = subprocess.run(
        [str(command), "evaluate", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["text"]["files"] == ["text.txt", "more/a.txt", "more/b.jsonl"]
    assert result["text"]["bytes"] == 2 * len(TEXT.encode()) + len("A line.")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["no-such-model", "--text", "text.txt"],
            "The config.json of no-such-model cannot be read",
        ),
        (["./gone", "--text", "text.txt"], "The model ./gone is not there: no such directory"),
        (["mean", "--text", "latin.txt"], "latin.txt is not UTF-8 text (byte 1)"),
        (["mean", "--text", "empty.txt"], "no text in empty.txt"),
        (["mean", "--text", "missing.txt"], "'missing.txt' does not exist"),
        (["mean", "--text", "hollow"], "hollow holds no .txt or .jsonl file"),
        (["mean", "--text", "text.txt", "--context", "257"], "has 256 positions: write a number"),
        (["mean", "--text", "text.txt", "--stride", "300"], "stride is 300"),
        (["mean", "--text", "text.txt", "--device", "abacus"], "'abacus' cannot be used"),
        (["mean"], "name a text with --text"),
        (["--text", "text.txt"], "name at least one model"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], message: str, folder: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(folder)
    Path("latin.txt").write_bytes(b"a\xe4")
    Path("empty.txt").write_text(" \n")
    Path("hollow").mkdir(exist_ok=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = run(*arguments)
    assert done.exit_code != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and message in errors[0], done.stderr


def test_a_tokenizer_that_changes_the_text_is_named(
    models: Any, folder: Path, tmp_path: Path
) -> None:
    lower = models("wp", "wordpiece", layers=1, hidden=16)
    done = run(lower, "--text", folder / "text.txt")
    assert done.exit_code == 0, done.output
    assert f"Warning: The tokenizer of {lower} does not keep the text" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="is installed")
def test_tasks_without_the_harness_say_what_to_install(folder: Path) -> None:
    done = run(folder / "mean", "--tasks", "arc_easy")
    assert done.exit_code == 1
    assert done.stderr.strip().endswith(
        "Error: --tasks needs lm-evaluation-harness, which is not installed: "
        "pip install 'mergekit-omp[eval]'."
    )


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs mergekit-omp[eval]")
def test_tasks_are_the_harness_s_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(
        "".join(json.dumps({"text": f"return {i} if"}) + "\n" for i in range(6))
    )
    (tmp_path / "task.yaml").write_text(
        "task: rolling\ndataset_path: json\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'data.jsonl'}}}}}\n"
        'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
        "metric_list: [{metric: bits_per_byte}]\n"
    )
    found = run_tasks([str(folder / "mean")], ["rolling"], include_path=tmp_path)
    ours = as_json(folder / "mean", "--text", tmp_path / "data.jsonl")["models"][1]
    theirs = found[str(folder / "mean")]["rolling"]["bits_per_byte,none"]
    assert theirs == pytest.approx(ours["bits_per_byte"], rel=1e-4)
    with pytest.raises(ValueError, match="no task nonsense_task"):
        run_tasks([str(folder / "mean")], ["nonsense_task"], include_path=tmp_path)
