"""`mergekit-omp heal` on real swaps of small models: what changes, what stays, what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from healing_runs import files, heal, licence, weights
from merges import record
from small_models import load

from mergekit_omp.cli import main
from mergekit_omp.record.row_facts import Origin


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("untied", "float32"),
        ("untied", "bfloat16"),
        ("tied", "float32"),
        ("sharded", "float32"),
        ("phi", "float32"),
        ("gemma", "float32"),
    ],
)
def test_new_rows_are_trained_and_nothing_else_changes(
    kind: str, dtype: str, swapped: Callable[..., Path], tmp_path: Path
) -> None:
    out, healed = swapped(kind, dtype), tmp_path / "healed"
    before = files(out)
    done = heal(out, healed, "--json")
    assert done.exit_code == 0, done.output
    assert files(out) == before
    assert not (tmp_path / "healed.healing").exists()

    old, new = weights(out), weights(healed)
    origin = np.load(out / "tokenizer_transplant.npz")["origin.0.0"]
    approximated = set(np.flatnonzero(origin == Origin.APPROXIMATED).tolist())
    aligned = {tensor["tensor"] for tensor in record(out)["models"][0]["tensors"]}
    assert old.keys() == new.keys()
    for name, rows in old.items():
        assert new[name].dtype == rows.dtype
        if name in aligned and rows.ndim == 2:
            changed = np.flatnonzero((new[name] != rows).any(1).numpy())
            assert len(changed) and set(changed.tolist()) <= approximated, name
        else:
            assert torch.equal(new[name], rows), name
    told = ("README.md", "tokenizer_transplant.json")
    after = files(healed)
    assert after.keys() == before.keys()
    assert [
        n for n in before if n not in told and ".safetensors" not in n and after[n] != before[n]
    ] == []

    # What was trained is what was written: it reads the held-out text as well as in training.
    model, _ = load(healed)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == (kind in ("tied", "gemma"))
    result = json.loads(done.stdout)
    healing = result["healing"]
    reached = dict(map(tuple, healing["bits_per_byte"]["evaluations"]))[healing["best_step"]]
    close = 1e-5 if dtype == "float32" else 1e-2
    assert result["models"][1]["bits_per_byte"] == pytest.approx(reached, abs=close)
    assert reached < result["models"][0]["bits_per_byte"]


def test_the_figures_are_those_of_evaluate(swapped: Callable[..., Path], tmp_path: Path) -> None:
    out, healed = swapped("untied"), tmp_path / "healed"
    result = json.loads(heal(out, healed, "--json", "--quiet").stdout)
    text = licence(out.parent)
    tail = tmp_path / "held-out.jsonl"
    documents = result["text"]["documents"]
    assert documents == 2
    from mergekit_omp.evaluation.documents import read_documents

    cut = read_documents([text]).documents
    assert "".join(cut) == text.read_text(encoding="utf-8")
    lines = [json.dumps({"text": document}) for document in cut[-documents:]]
    tail.write_text("\n".join(lines), encoding="utf-8")
    words = ["evaluate", out, healed, "--text", tail, "--json", "--quiet"]
    done = CliRunner().invoke(main, list(map(str, words)))
    figures = {model["model"]: model for model in json.loads(done.stdout)["models"]}
    for model in result["models"]:
        assert figures[model["model"]]["bits_per_byte"] == model["bits_per_byte"]
        assert figures[model["model"]]["interval"] == model["interval"]
        assert figures[model["model"]]["approximated"] == model["approximated"]


def test_record_and_card_say_what_was_done(swapped: Callable[..., Path], tmp_path: Path) -> None:
    out, once, twice = swapped("untied"), tmp_path / "once", tmp_path / "twice"
    done = heal(out, once)
    assert done.exit_code == 0
    assert f"The healed model is in {once}." in done.stdout
    (healing,) = record(once)["healing"]
    assert {**record(once), "healing": None} == {**record(out), "healing": None}
    changed = (weights(once)["lm_head.weight"] != weights(out)["lm_head.weight"]).any(1)
    (head,) = (rows for rows in healing["rows"] if rows["part"] == "head")
    assert head["trained"] == int(changed.sum())
    card = (once / "README.md").read_text(encoding="utf-8")
    assert "### Healing" in card and f"{head['trained']} of the {head['approximated']}" in card
    assert "No training" not in card and "No training" in (out / "README.md").read_text("utf-8")
    assert card.count("### Configuration") == 1
    # A healed model can be healed on, and says both.
    assert heal(once, twice).exit_code == 0
    assert len(record(twice)["healing"]) == 2


def test_it_stops_when_the_loss_no_longer_falls(
    swapped: Callable[..., Path], tmp_path: Path
) -> None:
    # Rows that are thrown about after the first steps: the best ones are kept.
    options = ("--steps", "40", "--every", "1", "--patience", "2", "--learning-rate", "0.3")
    done = heal(swapped("untied"), tmp_path / "healed", *options, "--json", "--quiet")
    assert done.exit_code == 0, done.output
    healing = json.loads(done.stdout)["healing"]
    curve = dict(map(tuple, healing["bits_per_byte"]["evaluations"]))
    assert healing["steps"] == healing["best_step"] + 2 < 40
    assert curve[healing["best_step"]] == min(curve.values())


@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_adapters_are_merged_into_the_body(
    kind: str, swapped: Callable[..., Path], tmp_path: Path
) -> None:
    out, healed = swapped(kind), tmp_path / "healed"
    done = heal(out, healed, "--lora", "2", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    old, new = weights(out), weights(healed)
    body = {name for name in old if name.endswith("_proj.weight")}
    assert set(result["healing"]["body"]) == body
    for name, rows in old.items():
        if name in body:
            difference = (new[name] - rows).double()
            assert torch.linalg.matrix_rank(difference, atol=1e-6) in (1, 2), name
        elif "norm" in name:
            assert torch.equal(new[name], rows)
    model, _ = load(healed)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == (kind == "tied")
    evaluations = dict(map(tuple, result["healing"]["bits_per_byte"]["evaluations"]))
    reached = evaluations[result["healing"]["best_step"]]
    assert result["models"][1]["bits_per_byte"] == pytest.approx(reached, abs=1e-5)
    assert "adapters of rank 2" in (healed / "README.md").read_text(encoding="utf-8")
