"""What the report and the terminal say of the fit, by methods that know different things of it."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest
from mergekit.options import MergeOptions
from merges import merge_here, record, swap
from related_models import Related

from mergekit_omp.record.summary import summary
from mergekit_omp.report.build import build_report
from mergekit_omp.report.contents import Report
from mergekit_omp.report.markdown import markdown_text
from mergekit_omp.report.out_dir import OutDir
from mergekit_omp.report.page import page
from mergekit_omp.report.sections import Wanted


@pytest.fixture(scope="module")
def reports(pair: Related, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    found = {}
    for method in ("kriging", "wechsel", "subword", "zero"):
        out = tmp_path_factory.mktemp("by") / method
        done = merge_here(swap(pair.base, pair.donor, method), out)
        assert done.status == 0, done.text
        found[method] = build_report(OutDir.open(out), MergeOptions(quiet=True), Wanted(200, False))
    return found


@pytest.mark.parametrize(
    ("method", "figure", "parts", "worst"),
    [
        ("kriging", "predicted error", "nearest shared tokens", "Highest predicted error"),
        ("wechsel", "similarity", "heaviest tokens", "Lowest similarity"),
        ("subword", "pieces", "heaviest pieces", "Most pieces"),
    ],
)
def test_each_method_shows_its_own_figure_and_what_its_rows_are_made_of(
    method: str, figure: str, parts: str, worst: str, reports: dict[str, Report]
) -> None:
    report = reports[method]
    for section in report.sections:
        entry = section.entry
        assert section.fit is not None and section.fit.title == figure
        assert section.fits.mean() == pytest.approx(entry[section.fit.key]["mean"], rel=1e-4)
        assert len(section.worst) == 15
        fits = [token.fit for token in section.worst if token.fit is not None]
        extreme = section.fits.max() if section.fit.largest_is_worst else section.fits.min()
        assert fits[0] == pytest.approx(extreme)
        assert fits == sorted(fits, reverse=section.fit.largest_is_worst)
        assert sum(bool(token.parts) for token in section.worst) >= 10
        for token in section.largest:
            weights = [abs(part.weight) for part in token.parts]
            assert weights == sorted(weights, reverse=True)
    for written in (html.unescape(page(report)), markdown_text(report)):
        assert f"mean {figure}" in written and worst in written and parts in written
        assert "relative residual" not in written and "heaviest anchors" not in written


def test_a_method_that_looks_at_no_token_says_so(reports: dict[str, Report]) -> None:
    report = reports["zero"]
    assert all(section.fit is None and not section.worst for section in report.sections)
    for written in (page(report), markdown_text(report)):
        assert "zero does not look at single tokens" in written
        assert "predicted error" not in written and "Highest" not in written
        # All new rows are alike, and none comes from the donor.
        assert "Largest norms" not in written
        assert "approximated by zero." in written


def test_pieces_are_whole_numbers_and_none_is_the_donors(reports: dict[str, Report]) -> None:
    for written in (page(reports["subword"]), markdown_text(reports["subword"])):
        assert "approximated by subword." in written
    rows = re.findall(r"^\| `.*?` \| \d+ \| (\S+) \| \S+ \| `", written, re.MULTILINE)
    assert len(rows) >= 30 and all(pieces.isdigit() for pieces in rows)


def test_predicted_errors_order_the_hidden_tokens_and_are_as_large_as_the_errors(
    reports: dict[str, Report],
) -> None:
    for section in reports["kriging"].sections:
        check = section.held_out
        assert check is not None and check.fits is not None
        expected = np.sqrt((check.fits**2).mean())
        assert check.error == pytest.approx(expected, rel=0.15)
        assert check.fit_tells is not None and check.fit_tells > 0


def test_the_terminal_gives_one_figure_of_fit_for_each_method(
    pair: Related, tmp_path: Path
) -> None:
    for method, says in (
        ("kriging", "mean predicted error (0: the row is known"),
        ("zero", "no figure of fit: zero does not look at single tokens"),
    ):
        assert merge_here(swap(pair.base, pair.donor, method), tmp_path / method).status == 0
        told = " ".join(summary(record(tmp_path / method), "out").split())
        assert says in told
        for entry in record(tmp_path / method)["models"][0]["tensors"]:
            if "predicted_error" in entry:
                assert f"{entry['part']} {entry['predicted_error']['mean']:.2f}" in told


def test_a_new_merge_takes_the_earlier_report_away(pair: Related, tmp_path: Path) -> None:
    for method in ("zero", "mean"):
        assert merge_here(swap(pair.base, pair.donor, method), tmp_path / "out").status == 0
        report = tmp_path / "out" / "tokenizer_transplant.html"
        assert not report.exists()
        report.write_text("<meta name=generator content='mergekit-omp report'>")
