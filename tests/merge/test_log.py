"""What a merge says on the terminal: without options, with -v and with --quiet."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from merges import mergekit_yaml, swap, write_config
from merging import record

from mergekit_omp.record.id_ranges import read, written
from mergekit_omp.record.shown_names import ShownNames


def run(config: dict[str, Any], folder: Path, *options: str) -> str:
    """What mergekit-yaml prints to the terminal, log apart."""
    from mergekit.scripts.run_yaml import main

    path = write_config(folder / "config.yml", config)
    done = CliRunner().invoke(main, [str(path), str(folder / "out"), *options])
    assert done.exit_code == 0, done.output
    return done.output


def from_us(caplog: Any, level: int) -> list[str]:
    return [
        entry.getMessage()
        for entry in caplog.records
        if entry.name.startswith("mergekit_omp") and entry.levelno >= level
    ]


def test_the_real_command_tells_each_fact_once(base: Path, donor: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yml", swap(base, donor, parameters={"k": 400}))
    out = tmp_path / "out"
    done = mergekit_yaml(config, out, "-v")
    assert done.status == 0, done.text
    lines = [line for line in done.text.replace("\r", "\n").splitlines() if "mergekit_omp" in line]
    log = [line[line.index("mergekit_omp") :] for line in lines if line[:4] in ("INFO", "WARN")]
    assert log, done.text
    assert [line for line, count in Counter(log).items() if count > 1] == []
    counts = record(out)["models"][0]["tensors"][0]["counts"]
    for fact in (
        f"{base}: {counts['copied']} rows copied, {counts['approximated']} approximated by omp "
        f"from {donor}",
        "token ids set: bos",
        "search ",
        "k reduced from 400 to 48",
        "reads 1234567 as 1 2 3 4 5 6 7 (single digits)",
    ):
        assert len([line for line in log if fact in line]) == 1, (fact, log)
    assert f"Next: mergekit-omp report {out}" in done.text


def test_without_options_there_are_warnings_and_a_summary(
    base: Path, donor: Path, tmp_path: Path, caplog: Any
) -> None:
    with caplog.at_level(logging.WARNING):
        said = run(swap(base, donor, parameters={"k": 4}), tmp_path)
    out = tmp_path / "out"
    warnings = record(out)["warnings"]
    shown = ShownNames([str(base), str(donor)])
    assert [shown(said) for said in from_us(caplog, logging.INFO)] == warnings
    tensors = record(out)["models"][0]["tensors"]
    told = " ".join(said[said.index("Merged into") :].split())
    means = [tensor["relative_residual"]["mean"] for tensor in tensors]
    assert f"input {means[0]:.2f}, head {means[1]:.2f}" in told
    assert f"{tensors[0]['counts']['approximated']} approximated by omp" in told
    assert f"{len(warnings)} warning" in told
    assert told.endswith(f"Next: mergekit-omp report {out}")


def test_quiet_says_nothing_and_the_record_keeps_the_warnings(
    base: Path, donor: Path, tmp_path: Path, caplog: Any
) -> None:
    said = run(swap(base, donor, parameters={"k": 400}), tmp_path, "--quiet")
    assert said == ""
    assert from_us(caplog, logging.DEBUG) == []
    warnings = record(tmp_path / "out")["warnings"]
    assert len([warning for warning in warnings if "k reduced from 400 to 48" in warning]) == 1
    assert len([warning for warning in warnings if "1234567" in warning]) == 1
    for tensor in record(tmp_path / "out")["models"][0]["tensors"]:
        assert tensor["parameters"]["k"] == 48 >= tensor["support_size"]["max"]
        assert tensor["parameters"]["search"] in ("reference", "screened", "gram")


def test_no_line_passes_80_columns_where_names_do_not(
    base: Path, donor: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(base.parent)
    # Without the dot mergekit would look the name up on the Hub.
    here = f"./{base.name}"
    names = {"base_model": here, "models": [{"model": here}]}
    said = run(swap(base, f"./{donor.name}") | names, tmp_path)
    told = [line for line in said.splitlines() if str(tmp_path) not in line]
    summary = told[next(i for i, line in enumerate(told) if base.name in line) :]
    assert summary
    assert max(map(len, summary)) <= 80


def test_merging_by_a_tokenizer_that_all_models_have_warns_of_nothing(
    family: list[Path], tmp_path: Path, caplog: Any
) -> None:
    said = run(
        {
            "merge_method": "omp+linear",
            "models": [{"model": str(path), "parameters": {"weight": 1}} for path in family[:2]],
            "tokenizer_source": str(family[0]),
            "dtype": "float32",
        },
        tmp_path,
    )
    assert from_us(caplog, logging.WARNING) == []
    assert "warning" not in said
    assert "approximated" not in said
    assert [model["approximated_ids"] for model in record(tmp_path / "out")["models"]] == ["", ""]


def test_the_record_lists_the_approximated_ids(base: Path, donor: Path, tmp_path: Path) -> None:
    run(swap(base, donor, parameters={"k": 4}), tmp_path)
    (model,) = record(tmp_path / "out")["models"]
    assert (
        len(read(model["approximated_ids"], 1 << 20))
        == model["tensors"][0]["counts"]["approximated"]
    )


@given(st.lists(st.integers(0, 500)))
def test_ids_survive_being_written(ids: list[int]) -> None:
    text = written(np.array(ids, dtype=np.int64))
    assert read(text, max(ids, default=0) + 1).tolist() == sorted(set(ids))
    assert len(text.split()) <= len(set(ids))
