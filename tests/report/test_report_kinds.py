"""Reports on kinds of outputs: several models, nothing approximated, tied, healed since."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mergekit.options import MergeOptions
from merges import merge_here, swap
from related_models import Related
from small_models import save_model
from transformers import AutoTokenizer

from mergekit_omp.report.build import build_report
from mergekit_omp.report.contents import Report
from mergekit_omp.report.markdown import markdown_text
from mergekit_omp.report.out_dir import OutDir
from mergekit_omp.report.page import page
from mergekit_omp.report.sections import Wanted
from mergekit_omp.report.wording import TIED, lead


def report_on(out: Path, hidden: int = 0) -> Report:
    return build_report(OutDir.open(out), MergeOptions(quiet=True), Wanted(hidden, False))


def test_several_models_are_all_named(pair: Related, tmp_path: Path) -> None:
    config = swap(pair.base, pair.donor, "kriging+linear")
    other = tmp_path / "other"
    other.symlink_to(pair.base)
    config["models"] = [
        {"model": str(model), "parameters": {"weight": 0.5}} for model in (pair.base, other)
    ]
    out = tmp_path / "out"
    done = merge_here(config, out)
    assert done.status == 0, done.text
    report = report_on(out)
    names = [model["model"] for model in report.record["models"]]
    for name in names:
        assert f"copied from {name}, " in lead(report)
    for written in (page(report), markdown_text(report)):
        assert "in which all models are merged" in written


def test_where_all_rows_are_copied_no_tensor_has_a_section(pair: Related, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert merge_here(swap(pair.base, pair.base, "omp"), out).status == 0
    report = report_on(out, hidden=200)
    assert "approximated" not in lead(report)
    for written in (page(report), markdown_text(report)):
        assert "approximated by omp" not in written and "no row was approximated" in written


@pytest.mark.parametrize("tied", [True, False])
def test_one_matrix_for_both_is_called_so(tied: bool, pair: Related, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", AutoTokenizer.from_pretrained(pair.base), tied=tied)
    out = tmp_path / "out"
    assert merge_here(swap(base, pair.donor, "mean"), out).status == 0
    report = report_on(out)
    for written in (page(report), markdown_text(report)):
        assert (TIED in written) == tied
        assert ("Output head" in written) != tied


def test_a_healing_since_the_merge_is_told(swapped: Path, tmp_path: Path) -> None:
    assert "mergekit-omp heal" not in lead(report_on(swapped))
    healed = tmp_path / "healed"
    healed.mkdir()
    for file in swapped.iterdir():
        if file.is_file():
            (healed / file.name).write_bytes(file.read_bytes())
    path = healed / "tokenizer_transplant.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"healing": [{"rows": []}]}))
    assert "Since then mergekit-omp heal has trained rows" in lead(report_on(healed))
