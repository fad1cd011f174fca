"""What an output directory holds: the old model, the new one, or none; and the user's own files."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from merges import merge_here, swap, write_config
from merging import tensors
from safetensors.torch import load_file, save_file
from small_models import load, save_model

from benchmarks.reliability import (
    OWN_FILE,
    OWN_TEXT,
    Study,
    World,
    in_a_child,
    killed_at,
    operations,
)
from mergekit_omp.transplant.staging import HIDDEN, OutputDirectory

SHARDS = ("--out-shard-size", "20K")


@pytest.fixture(scope="module")
def talking_donor(real_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A donor whose tokenizer has a chat template."""
    tokenizer = real_tokenizer("wordpiece")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    return save_model(tmp_path_factory.mktemp("donors") / "talking", tokenizer, layers=1, hidden=16)


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def with_large_rows(path: Path, to: Path) -> Path:
    """A base whose merge fails while it runs, in float16."""
    shutil.copytree(path, to)
    held = load_file(to / "model.safetensors")
    held["lm_head.weight"] *= 1e6
    save_file(held, to / "model.safetensors", metadata={"format": "pt"})
    return to


@pytest.mark.parametrize("options", [((), SHARDS), (SHARDS, ())], ids=["shards", "one-file"])
def test_nothing_of_an_earlier_merge_remains_that_a_reader_takes(
    options: Any, base: Path, donor: Path, talking_donor: Path, merge: Any
) -> None:
    out = merge(swap(base, talking_donor, "zero"), "out", *options[0])
    assert (out / "chat_template.jinja").exists()
    stale = ["tokenizer_transplant.html", "output_tokenizer.py", "vocab.txt", "tokenizer.model"]
    (out / "additional_chat_templates").mkdir()
    for name in [*stale, "additional_chat_templates/tools.jinja"]:
        (out / name).write_text("of the earlier merge")
    own = {"notes.txt": b"mine", "logs/run.txt": b"mine", "model.Q4_K_M.gguf": b"mine"}
    for name, content in own.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(content)

    again = merge(swap(base, donor, "zero"), "out", *options[1])
    fresh = merge(swap(base, donor, "zero"), "fresh", *options[1])
    held = contents(again)
    assert {name: held.pop(name) for name in own} == own
    whole = contents(fresh)
    assert held.keys() == whole.keys()
    # Cards and records name their own directory.
    for name in held.keys() - {"README.md"}:
        assert held[name] == whole[name], name
    assert load(again)[1].chat_template is None


def test_nothing_is_written_through_a_link(
    base: Path, donor: Path, tmp_path: Path, merge: Any
) -> None:
    model = tmp_path / "model"
    shutil.copytree(base, model)
    before = contents(model)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mergekit_config.yml").write_text("# an earlier merge")
    for name in before:
        (out / name).symlink_to(model / name)
    (out / "model.safetensors").unlink()
    os.link(model / "model.safetensors", out / "model.safetensors")
    merge(swap(model, donor, "zero"))
    assert contents(model) == before
    assert not any(file.is_symlink() for file in out.iterdir())
    load(out)


def test_a_merge_that_fails_leaves_the_old_output_as_it_was(
    base: Path, donor: Path, tmp_path: Path, merge: Any
) -> None:
    out = merge(swap(base, donor, "zero"))
    before = contents(out)
    refused = swap(base, donor, parameters={"k": 0})
    assert merge_here(refused, out).status == 1
    assert contents(out) == before
    large = with_large_rows(base, tmp_path / "large")
    late = merge_here({**swap(large, donor, "zero"), "out_dtype": "float16"}, out)
    assert late.status == 1
    assert "not finite in float16" in late.text
    assert contents(out) == before


def test_a_merge_that_fails_late_leaves_no_new_directory(
    base: Path, donor: Path, tmp_path: Path
) -> None:
    large = with_large_rows(base, tmp_path / "large")
    out = tmp_path / "new"
    config = {**swap(large, donor, "zero"), "out_dtype": "float16"}
    assert merge_here(config, out).status == 1
    assert not out.exists()


def test_a_second_merge_into_a_directory_where_one_is_running(
    base: Path, donor: Path, tmp_path: Path, merge: Any
) -> None:
    running = OutputDirectory(str(tmp_path / "out"))
    running.open()
    done = merge_here(swap(base, donor, "zero"), tmp_path / "out")
    assert done.status == 1
    assert f"Another merge is running into {tmp_path / 'out'}" in done.text
    assert Path(running.stage).is_dir(), "the merge that runs is left alone"
    running.close()
    load(merge(swap(base, donor, "zero")))


def test_a_directory_in_which_nothing_can_be_written(base: Path, donor: Path) -> None:
    done = merge_here(swap(base, donor, "zero"), Path("/proc/out"), config_at=base.parent / "c.yml")
    assert done.status == 1
    assert "Nothing can be written into /proc/out" in done.text


def test_an_adapter_in_the_output_directory(base: Path, donor: Path, merge: Any) -> None:
    out = merge(swap(base, donor, "zero"))
    (out / "adapter_config.json").write_text("{}")
    before = contents(out)
    done = merge_here(swap(base, donor, "mean"), out)
    assert done.status == 1
    assert "adapter_config.json" in done.text
    assert contents(out) == before


def test_a_disk_without_room(base: Path, donor: Path, tmp_path: Path, merge: Any) -> None:
    out = merge(swap(base, donor, "zero"))
    before = contents(out)
    config = write_config(tmp_path / "full.yml", swap(base, donor, "mean"))

    def with_small_files() -> tuple[int, str]:
        from mergekit.scripts.run_yaml import main

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        done = CliRunner().invoke(main, [str(config), str(out), "--quiet"])
        return done.exit_code, done.output

    _, (status, said) = in_a_child(with_small_files)
    assert status == 1
    assert f"There is no room for the output in {out}" in said
    assert contents(out) == before


@pytest.fixture(scope="module")
def study(base: Path, donor: Path, talking_donor: Path, tmp_path_factory: Any) -> Study:
    folder = tmp_path_factory.mktemp("study")
    configs = (swap(base, talking_donor, "zero"), swap(base, donor, "zero"))
    return Study.of(World(folder, configs, ((), SHARDS)))


@pytest.mark.parametrize("old", [None, 0], ids=["fresh", "used"])
def test_a_killed_merge(old: int | None, study: Study, tmp_path: Path) -> None:
    """At moments before, in and after the move out of the stage."""
    out = tmp_path / "out"
    total = operations(study.world, 1, study.prepared(out, old))
    found = set()
    for back in (total - 1, 28, 20, 13, 6, 2, 0):
        study.prepared(out, old)
        killed_at(study.world, 1, out, total - back)
        verdict = study.judge("killed", out, 1, old, None)
        assert not verdict.startswith("WRONG"), (back, verdict)
        found.add(verdict)
    assert found == ({"new", "none"} if old is None else {"old", "new", "none"})
    # The last left litter, which the next removes.
    assert (out / HIDDEN).exists()
    assert study.merges_again(out, 1) == "whole"
    if old is not None:
        assert (out / OWN_FILE).read_text() == OWN_TEXT


def test_a_plain_merge_over_an_output_and_the_report(
    base: Path, donor: Path, models: Any, merge: Any
) -> None:
    from mergekit_omp.cli import main

    out = merge(swap(base, donor, "zero"))
    plain = {"merge_method": "passthrough", "models": [{"model": str(base)}], "dtype": "float32"}
    merge(plain, "out")
    assert torch.equal(tensors(out)["lm_head.weight"], tensors(base)["lm_head.weight"])
    done = CliRunner().invoke(main, ["report", str(out)])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert "a later merge (passthrough) was written over the one" in done.output


@pytest.mark.parametrize("name", ["old", "lock", "new"])
def test_an_output_may_have_any_name(name: str, base: Path, donor: Path, merge: Any) -> None:
    """Names among them that the directory of an unfinished merge has for itself."""
    for _ in range(2):
        out = merge(swap(base, donor, "mean"), name)
        load(out)
        assert not (out / HIDDEN).exists()
