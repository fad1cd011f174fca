"""The held-out check and the search for outliers, against what is true by construction."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mergekit.options import MergeOptions
from merges import merge_here, swap
from related_models import NAMES, Related, change, clean_rows
from safetensors.torch import load_file
from transformers import AutoTokenizer

from mergekit_omp import Vocabulary, align
from mergekit_omp.report.build import build_report
from mergekit_omp.report.contents import Report
from mergekit_omp.report.out_dir import OutDir
from mergekit_omp.report.sections import Wanted
from mergekit_omp.report.tokens import shown


def reported(out: Path, *, compare: bool = False) -> Report:
    return build_report(OutDir.open(out), MergeOptions(quiet=True), Wanted(200, compare))


def vocabularies(pair: Related) -> tuple[Vocabulary, Vocabulary]:
    base, donor = (
        Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(path), path.name)
        for path in (pair.base, pair.donor)
    )
    return base, donor


def test_its_scores_are_those_of_the_tokens_that_really_are_missing(
    swapped: Path, pair: Related
) -> None:
    base, donor = vocabularies(pair)
    missing = np.flatnonzero(align(base, donor).source < 0)
    output = load_file(swapped / "model.safetensors")
    own = load_file(pair.base / "model.safetensors")
    for i, (section, name) in enumerate(zip(reported(swapped).sections, NAMES, strict=True)):
        truth = clean_rows(donor, "base", i, pair.hidden)[missing]
        mean = own[name].mean(0)
        cosines = torch.cosine_similarity(output[name][missing] - mean, truth - mean)
        assert section.held_out is not None
        # The rows that the check compares with have noise of their own, the truth here has none.
        noisy = cosines.mean() / (1 + pair.noise**2) ** 0.5
        assert section.held_out.own.score == pytest.approx(float(noisy), abs=0.05)
        assert 0.3 < section.held_out.own.score < 0.95


def test_the_models_rows_are_as_before_after_a_check(swapped: Path, pair: Related) -> None:
    first, second = (reported(swapped).sections[0] for _ in range(2))
    assert first.held_out == second.held_out or (
        first.held_out is not None
        and second.held_out is not None
        and first.held_out.outcomes == second.held_out.outcomes
    )
    norms = first.norms["all rows of the model"]
    own = load_file(pair.base / "model.safetensors")[NAMES[0]]
    np.testing.assert_allclose(norms, own.double().norm(dim=1).numpy())


def test_all_methods_are_compared_even_after_a_merge_that_read_no_donor_rows(
    pair: Related, tmp_path: Path
) -> None:
    out = tmp_path / "mean"
    assert merge_here(swap(pair.base, pair.donor, "mean"), out).status == 0
    sections = reported(out, compare=True).sections
    for section in sections:
        assert section.held_out is not None
        scores = {o.method: o.score for o in section.held_out.outcomes}
        assert section.held_out.own.method == "mean"
        assert scores["mean"] == 0
        assert abs(scores["normal"]) < 0.2 and abs(scores["zero"]) < 0.2
        # The rows are a linear image of one another, and no piece of a token tells of the whole.
        assert scores["linear"] > scores["focus"] > 0.3
        assert scores["omp"] > 0.3
        assert abs(scores["subword"]) < 0.2


def test_residuals_norms_and_anchors_are_those_of_the_merge(swapped: Path, pair: Related) -> None:
    output = load_file(swapped / "model.safetensors")
    own = load_file(pair.base / "model.safetensors")
    base, _ = vocabularies(pair)
    report = reported(swapped)
    for section, name in zip(report.sections, NAMES, strict=True):
        recorded = section.entry["relative_residual"]
        assert section.fits.mean() == pytest.approx(recorded["mean"], rel=1e-4)
        assert section.worst[0].fit == pytest.approx(recorded["max"], rel=1e-4)
        norms = output[name].norm(dim=1)
        for token in (*section.worst, *section.largest):
            assert token.norm == pytest.approx(float(norms[token.id]), rel=1e-5)
        assert section.largest[0].norm == pytest.approx(
            section.entry["row_norms"]["approximated"]["max"], rel=1e-4
        )
        named: dict[str, list[int]] = {}
        for row, text in enumerate(base.content):
            named.setdefault(shown(text or b""), []).append(row)
        told = [[named[part.text] for part in token.parts] for token in section.largest]
        place = next(i for i, rows in enumerate(told) if all(len(row) == 1 for row in rows))
        token, rows = section.largest[place], told[place]
        parts = [own[name][row] * a.weight for (row,), a in zip(rows, token.parts, strict=True)]
        # Four of eight anchors, the heaviest: most of the row.
        assert torch.cosine_similarity(sum(parts), output[name][token.id], dim=0) > 0.6


def test_a_row_that_is_ordinary_in_the_donor_and_large_here_is_found(
    pair: Related, tmp_path: Path
) -> None:
    for path in (pair.base, pair.donor):
        shutil.copytree(path, tmp_path / path.name)
    base, donor = vocabularies(pair)
    found = align(base, donor)
    anchors = np.flatnonzero(found.anchors)
    missing = int(np.flatnonzero((found.source < 0) & (donor.kinds == 1))[5])
    theirs = load_file(pair.donor / "model.safetensors")[NAMES[1]]
    own = load_file(pair.base / "model.safetensors")[NAMES[1]]
    # An anchor that a pursuit takes, and that four in five are shorter than.
    shared = anchors[theirs[anchors].norm(dim=1).argsort()[len(anchors) * 8 // 10]]
    row = int(found.source[shared])
    # It is long in the base, and the donor points a token at it by a row like any other.
    change(tmp_path / "base", NAMES[1], row, 40 * own[row])
    change(tmp_path / "donor", NAMES[1], missing, theirs[shared] * 0.9)
    out = tmp_path / "out"
    config = swap(tmp_path / "base", tmp_path / "donor", parameters={"k": 8})
    assert merge_here(config, out).status == 0
    by_input, by_head = (section.outliers for section in reported(out).sections)
    assert by_input == ()
    assert by_head is not None
    # Tokens whose combination has a little of that anchor may lie farther still.
    (told,) = [outlier for outlier in by_head if outlier.token.id == missing]
    assert told.out_times > 2 and told.donor_share < 0.9


def test_none_is_found_where_there_is_none(swapped: Path) -> None:
    assert [section.outliers for section in reported(swapped).sections] == [(), ()]
