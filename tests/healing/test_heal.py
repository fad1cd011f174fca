"""`mergekit-omp heal` on real swaps of small models: what changes, what stays, what it says."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from merges import merge_here, record, swap
from safetensors.torch import load_file
from small_models import load

from mergekit_omp.cli import main
from mergekit_omp.healing import training
from mergekit_omp.record.row_facts import Origin

ROOT = Path(__file__).parents[2]
SHORT = (
    *("--steps", "8", "--every", "4", "--batch-size", "4", "--context", "32"),
    *("--learning-rate", "0.004"),
)


def heal(out: Path, healed: Path, *options: str | Path, text: Path | None = None) -> Result:
    words = ["heal", out, healed, "--text", text or licence(out.parent), *SHORT, *options]
    done = CliRunner().invoke(main, list(map(str, words)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def licence(folder: Path) -> Path:
    """A text of five documents."""
    file = folder / "licence.txt"
    if not file.exists():
        lines = (ROOT / "LICENSE").read_text(encoding="utf-8").splitlines()
        file.write_text("\n".join(line.strip() for line in lines), encoding="utf-8")
    return file


def refused(done: Result) -> str:
    """What a healing that was refused said, in one sentence or two."""
    assert done.exit_code == 1, done.output
    (line,) = [line for line in done.output.splitlines() if line.startswith("Error: ")]
    return line


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def swapped(
    base: Path, donor: Path, models: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`swapped(kind)`: a swap of one of several kinds of models, made once."""
    folder = tmp_path_factory.mktemp("swapped")
    bases: dict[str, Callable[[], Path]] = {
        "untied": lambda: base,
        "tied": lambda: models("tied", "sentencepiece_bpe", tied=True, layers=1, hidden=16),
        "sharded": lambda: models(
            "sharded", "sentencepiece_bpe", layers=1, hidden=16, shard_size="20KB"
        ),
        # A head with a bias, and layers of other names.
        "phi": lambda: models(
            "phi",
            "sentencepiece_bpe",
            model_type="phi",
            layers=1,
            hidden=16,
            partial_rotary_factor=0.5,
        ),
        # An embedding that scales what it looks up, tied.
        "gemma": lambda: models(
            "gemma",
            "sentencepiece_bpe",
            model_type="gemma",
            tied=True,
            layers=1,
            hidden=16,
            head_dim=8,
        ),
    }

    def make(kind: str, dtype: str = "float32") -> Path:
        out = folder / f"{kind}-{dtype}"
        if not out.exists():
            options = ("--out-shard-size", "20K") if kind == "sharded" else ()
            done = merge_here(swap(bases[kind](), donor, dtype=dtype), out, *options)
            assert done.status == 0, done.text
        return out

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


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


def test_an_interrupted_healing_goes_on_to_the_same_bytes(
    swapped: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole, healed = swapped("tied"), tmp_path / "whole", tmp_path / "healed"
    assert heal(out, whole).exit_code == 0
    step = training._RowTrainer.training_step

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 6:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(training._RowTrainer, "training_step", interrupted)
        done = heal(out, healed)
    assert done.exit_code == 130
    assert "The same command goes on from step 4." in done.output
    assert not healed.exists()
    # A checkpoint that was half written is passed over.
    (tmp_path / "healed.healing" / "checkpoint-6").mkdir()
    other = refused(heal(out, healed, "--seed", "1"))
    assert "--seed" in other and "--restart" in other
    done = heal(out, healed)
    assert done.exit_code == 0, done.output
    assert "Going on from step 4" in done.output
    assert files(healed) == files(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["healed", "whole"]


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


def test_a_loss_that_is_no_number_is_told(swapped: Callable[..., Path], tmp_path: Path) -> None:
    healed = tmp_path / "healed"
    said = refused(heal(swapped("untied"), healed, "--learning-rate", "1e30"))
    assert "not a number at step" in said and "--learning-rate" in said
    assert not healed.exists()


def test_nothing_is_written_where_nothing_is_won(
    swapped: Callable[..., Path], tmp_path: Path
) -> None:
    healed = tmp_path / "healed"
    said = refused(heal(swapped("untied"), healed, "--learning-rate", "1e-30"))
    assert "does not lower the loss" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("largest", [4_000, 60_000], ids=["checkpoint", "model"])
def test_a_full_disk_is_told_and_loses_nothing(
    largest: int, swapped: Callable[..., Path], tmp_path: Path
) -> None:
    out, healed = swapped("untied"), tmp_path / "healed"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
    try:
        done = heal(out, healed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "no room" in refused(done)
    assert not healed.exists()
    # With room again, the same command ends.
    assert heal(out, healed).exit_code == 0


def test_what_cannot_be_healed_is_refused(
    swapped: Callable[..., Path], models: Any, family: list[Path], tmp_path: Path
) -> None:
    out, healed = swapped("untied"), tmp_path / "healed"
    short = tmp_path / "short.txt"
    short.write_text("A few words.\n\nAnd a few more.\n", encoding="utf-8")
    foreign = tmp_path / "foreign.txt"
    foreign.write_text("\n".join(["a b c"] * 900), encoding="utf-8")
    nothing = tmp_path / "nothing"
    assert merge_here(swap(family[0], family[1]), nothing).status == 0
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    other = tmp_path / "new.healing"
    other.mkdir()
    (other / "notes.txt").write_text("mine")

    assert "has no tokenizer_transplant.json" in refused(heal(family[0], healed))
    assert "nothing to heal" in refused(heal(nothing, healed))
    assert "is the model that is to be healed" in refused(heal(out, out))
    assert "is not empty: it holds notes.txt" in refused(heal(out, full))
    assert "is a file" in refused(heal(out, short))
    assert "holds something else" in refused(heal(out, tmp_path / "new"))
    assert "too short: 1 document" in refused(heal(out, healed, text=short))
    said = refused(heal(out, healed, "--split", "line", text=short))
    assert "too short" in said
    said = refused(heal(out, healed, "--split", "line", text=foreign))
    assert "None of the approximated tokens" in said
    assert "256 positions" in refused(heal(out, healed, "--context", "1000"))
    assert (full / "notes.txt").read_text() == (other / "notes.txt").read_text() == "mine"
    assert not healed.exists()


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
