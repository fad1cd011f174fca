"""What the README says of `mergekit-tokensurgeon`, by running it: each cell of the comparison."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures.families import save_vision_model
from click.testing import CliRunner, Result
from mergekit.scripts.tokensurgeon import main as tokensurgeon
from merges import swap
from small_models import matrices
from transformers import AutoTokenizer


def run(base: Path, donor: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(tokensurgeon, [str(base), str(donor), str(out), "--quiet", *options])


@pytest.fixture(scope="module")
def pair(models: Any) -> tuple[Path, Path]:
    """A tied base that spells as SentencePiece does, and an untied byte-level donor."""
    base = models("sp-tied", "sentencepiece_bpe", tied=True, std=0.5)
    return base, models("bytes", "byte_level", hidden=48)


def copied(out: Path, base: Path) -> set[int]:
    rows, own = matrices(out)[0], matrices(base)[0]
    known = {row.numpy().tobytes() for row in own if row.any()}
    return {i for i, row in enumerate(rows) if row.numpy().tobytes() in known}


def test_it_matches_strings_and_here_bytes_and_roles_match(
    pair: tuple[Path, Path], tmp_path: Path, merge: Callable[..., Path]
) -> None:
    base, donor = pair
    found = {}
    for name, options in {
        "plain": [],
        "bytes": ["--byte-match", "yes"],
        "prefixes": ["--prefix-match", "yes"],
        "magikarp": ["--magikarp"],
    }.items():
        ran = run(base, donor, tmp_path / name, "-a", "zero", *options)
        assert ran.exit_code == 0, ran.output
        found[name] = copied(tmp_path / name, base)
    ours = copied(merge(swap(base, donor, "zero")), base)
    assert found["plain"] <= found["bytes"] < ours
    # Rows that look untrained are not copied.
    assert found["magikarp"] < found["plain"]
    # A prefix is another token: its row is copied to tokens that stand for other bytes.
    assert found["prefixes"] - ours
    # What it leaves behind: no record, no generation config; bos and eos as in the donor's config.
    files = {path.name for path in (tmp_path / "plain").iterdir()}
    assert not {"generation_config.json", "tokenizer_transplant.json"} & files
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    donors = json.loads((donor / "config.json").read_text())
    assert all(config[f"{role}_token_id"] == donors[f"{role}_token_id"] for role in ("bos", "eos"))


def test_of_an_untied_donor_a_tied_base_sees_the_input_embedding_there_and_the_head_here(
    pair: tuple[Path, Path], models: Any, tmp_path: Path, merge: Callable[..., Path]
) -> None:
    from safetensors.torch import load_file, save_file

    base, donor = pair
    other = tmp_path / "other-head"
    other.mkdir()
    for path in donor.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    tensors = load_file(donor / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].flip(1).contiguous() + 1.0
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    theirs, ours = [], []
    for name, path in (("one", donor), ("two", other)):
        ran = run(base, path, tmp_path / f"theirs-{name}", "-k", "4")
        assert ran.exit_code == 0, ran.output
        theirs.append(matrices(tmp_path / f"theirs-{name}")[0])
        made = merge(swap(base, path, "omp", parameters={"k": 4}), f"ours-{name}")
        ours.append(matrices(made)[0])
    assert torch.equal(*theirs), "the donor's head makes no difference"
    assert not torch.equal(*ours)


def test_k_above_the_dimension_is_taken_as_it_is_and_above_the_anchors_an_error(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base, donor = pair
    taken = run(base, donor, tmp_path / "dimension", "-k", "64")
    assert taken.exit_code == 0, taken.output
    assert "reduced" not in taken.output
    refused = run(base, donor, tmp_path / "anchors", "-k", "5000")
    assert refused.exit_code != 0


def test_models_of_several_modules_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, real_tokenizer: Any
) -> None:
    save_vision_model(tmp_path / "vision", "qwen2_5_vl", real_tokenizer("byte_level"))
    assert run(tmp_path / "vision", pair[1], tmp_path / "out").exit_code != 0
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_rows_of_tokens_that_are_never_emitted_are_copied(models: Any, tmp_path: Path) -> None:
    base = models("sp", "sentencepiece_bpe")
    donor = models("sp5", "sentencepiece_bpe", seed=5)
    tokenizer = AutoTokenizer.from_pretrained(base)
    spare = tokenizer.convert_tokens_to_ids("<0x41>")
    assert spare not in tokenizer("A AA xAx", add_special_tokens=False).input_ids
    ran = run(base, donor, tmp_path / "out", "-a", "zero")
    assert ran.exit_code == 0, ran.output
    assert torch.equal(matrices(tmp_path / "out")[0][spare], matrices(base)[0][spare])
