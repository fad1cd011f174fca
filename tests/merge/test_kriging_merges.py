"""Kriging in real merges: which donor matrices it reads, in front of a merge method, in a union."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from merges import record, swap
from small_models import load, matrices

from mergekit_omp.approximation import CodingInputs, MissingRows, Part, Texts
from mergekit_omp.approximation.kriging import Kriging
from mergekit_omp.vocabulary import Vocabulary, align


@pytest.mark.parametrize(
    ("base_tied", "donor_tied"), [(True, False), (False, False), (False, True)]
)
def test_a_swap_is_the_library_on_both_of_the_donors_matrices(
    base_tied: bool, donor_tied: bool, models: Any, merge: Any
) -> None:
    base = models(f"base_{base_tied}", "sentencepiece_bpe", hidden=16, layers=1, tied=base_tied)
    donor = models(
        f"donor_{donor_tied}", "byte_level", hidden=24, layers=1, tied=donor_tied, seed=1
    )
    out = merge(swap(base, donor, "kriging", parameters={"ridge": 1.0}))
    (_, own), (_, new) = load(base), load(donor)
    of_base, of_donor = (
        Vocabulary.from_tokenizer(tokenizer, name) for tokenizer, name in ((own, "b"), (new, "d"))
    )
    found = align(of_base, of_donor)
    missing = torch.from_numpy(np.flatnonzero(found.source < 0))
    entry, head = matrices(donor)
    for i, part in enumerate((Part.INPUT,) if base_tied else (Part.INPUT, Part.HEAD)):
        inputs, other = (entry, head) if part == Part.INPUT and not base_tied else (head, entry)
        # A new model's row of the padding token is zero, and no anchor; nor is it approximated.
        usable = (inputs != 0).any(1)
        old = matrices(base)[i]
        here = found.anchors & usable.numpy() & (old != 0).any(1).numpy()[found.source]
        anchors = torch.from_numpy(np.flatnonzero(here))
        rows = missing[usable[missing]]
        texts = Texts(
            missing=[of_donor.content[row] for row in rows.tolist()],
            base=of_base.content[: len(old)],
            donor=of_donor.content,
            segment_in_base=of_base.segment,
            segment_in_donor=of_donor.segment,
        )
        problem = MissingRows(
            part=part,
            base=old,
            inputs=CodingInputs(
                missing=len(rows),
                anchor_rows=torch.from_numpy(found.source[anchors.numpy()]),
                targets=inputs[rows],
                anchors=inputs[anchors],
                donor=inputs,
                other_targets=None if donor_tied else other[rows],
                other_anchors=None if donor_tied else other[anchors],
                texts=texts,
            ),
        )
        expected = Kriging(ridge=1.0).rows(problem)
        torch.testing.assert_close(matrices(out)[i][rows], expected, rtol=1e-4, atol=1e-5)


def test_in_front_of_a_merge_method_it_serves_every_model(
    family: list[Path], models: Any, merge: Any
) -> None:
    donor = models("bytes", "byte_level", hidden=16, layers=1, seed=1)
    swapped = [merge(swap(path, donor, "kriging"), f"alone_{i}") for i, path in enumerate(family)]
    config = {
        "merge_method": "kriging+linear",
        "models": [{"model": str(p), "parameters": {"weight": 1.0}} for p in family],
        "tokenizer_source": str(donor),
        "dtype": "float32",
    }
    merged = merge(config, "merged")
    for i, matrix in enumerate(matrices(merged)):
        mean = torch.stack([matrices(path)[i] for path in swapped]).mean(0)
        torch.testing.assert_close(matrix, mean, rtol=1e-4, atol=1e-5)


def test_a_union_is_filled_from_every_donor(models: Any, merge: Any) -> None:
    order = [
        models(f"union_{kind}", kind, hidden=16, layers=1, tied=tied, seed=seed)
        for seed, (kind, tied) in enumerate([("sentencepiece_bpe", True), ("byte_level", True)])
    ]
    out = merge(
        {
            "merge_method": "kriging+linear",
            "base_model": str(order[0]),
            "models": [{"model": str(p), "parameters": {"weight": 1.0}} for p in order],
            "tokenizer_source": "union",
            "dtype": "float32",
        }
    )
    assert all(matrix.isfinite().all() for matrix in matrices(out))
    said = record(out)
    for model, other in zip(said["models"], reversed(order), strict=True):
        (entry,) = model["tensors"]
        assert [donor["model"] for donor in entry["donors"]] == [other.name]
        assert entry["counts"]["approximated"] > 200
        assert 0 < entry["parameters"]["ridge"] < 1e4
        assert entry["parameters"]["neighbors"] == 16
