"""What goes wrong around `mergekit-omp heal`: a sentence, and nothing is lost."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from healing_runs import files, heal, refused, weights
from merges import merge_here, swap
from safetensors.torch import load_file, save_file

from mergekit_omp.healing import training


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


def edited(out: Path, name: str, change: Callable[[Path], Any]) -> Path:
    """A copy of a swapped model that somebody changed afterwards."""
    copy = out.parent / f"edited-{name}"
    if not copy.exists():
        shutil.copytree(out, copy)
        change(copy)
    return copy


def with_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return write


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def fewer_rows(folder: Path) -> None:
    """A vocabulary that was cut, as far as the prefix of a document."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"vocab_size": 8, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    with_tensors(
        lambda tensors: tensors.update(
            {
                name: tensors[name][:8].clone()
                for name in tensors
                if "norm" not in name and ("embed" in name or "head" in name)
            }
        )
    )(folder)


def renamed_in_record(folder: Path) -> None:
    file = folder / "tokenizer_transplant.json"
    file.write_text(file.read_text().replace("model.embed_tokens.weight", "model.wte.weight"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cut_short, "cannot be read in"),
        (as_pickle, "no weights in safetensors files"),
        (
            with_tensors(lambda tensors: tensors.pop("lm_head.weight")),
            "names the tensor lm_head.weight, which its weights lack",
        ),
        (renamed_in_record, "names the tensor model.wte.weight, which its weights lack"),
        (fewer_rows, "and the model has 8 rows"),
        (lambda out: (out / "tokenizer_transplant.npz").write_bytes(b"PK"), "or delete it."),
        (lambda out: (out / "tokenizer_transplant.json").write_text("{"), "is not JSON"),
    ],
    ids=["cut short", "a pickle", "no head", "renamed", "fewer rows", "no archive", "no record"],
)
def test_a_model_that_was_changed_after_its_merge_is_refused(
    change: Callable[[Path], Any],
    said: str,
    swapped: Callable[..., Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    out = edited(swapped("untied"), request.node.callspec.id.replace(" ", "-"), change)
    healed = tmp_path / "healed"
    assert said in refused(heal(out, healed))
    assert list(tmp_path.iterdir()) == []


def test_after_a_refusal_another_healing_may_begin_there(
    swapped: Callable[..., Path], tmp_path: Path
) -> None:
    """A folder of checkpoints without one belongs to nobody."""
    killed = tmp_path / "healed.healing"
    killed.mkdir()
    (killed / "settings.json").write_text('{"--seed": 7}')
    (killed / "checkpoint-4").mkdir()
    done = heal(swapped("untied"), tmp_path / "healed")
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["healed"]


def test_weights_of_8_bits_keep_their_dtype(swapped: Callable[..., Path], tmp_path: Path) -> None:
    narrow = torch.float8_e4m3fn
    out = edited(
        swapped("untied"),
        "narrow",
        with_tensors(lambda tensors: tensors.update({n: t.to(narrow) for n, t in tensors.items()})),
    )
    done = heal(out, tmp_path / "healed", "--learning-rate", "0.02")
    assert done.exit_code == 0, done.output
    old, new = weights(out), weights(tmp_path / "healed")
    assert {tensor.dtype for tensor in new.values()} == {narrow}
    changed = [
        n for n in old if not torch.equal(old[n].view(torch.uint8), new[n].view(torch.uint8))
    ]
    assert sorted(changed) == ["lm_head.weight", "model.embed_tokens.weight"]
