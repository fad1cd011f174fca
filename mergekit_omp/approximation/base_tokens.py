"""All of the base's tokens in the donor's space, those that the donor lacks too.

A token that the donor lacks is the mean of the donor's rows of its pieces (Minixhofer et al. 2022).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mergekit_omp.approximation.base import CodingInputs, Texts
from mergekit_omp.approximation.chunks import strips
from mergekit_omp.approximation.codes import working_dtype
from mergekit_omp.approximation.features import MeanRows


def emitted_rows(texts: Texts, anchor_rows: Tensor) -> list[int]:
    """The base's rows of anchors, and of ordinary tokens that its tokenizer emits; the others were
    never trained."""
    return texts.shared.of("emitted", [anchor_rows], lambda: _emitted_rows(texts, anchor_rows))


def _emitted_rows(texts: Texts, anchor_rows: Tensor) -> list[int]:
    anchors = set(anchor_rows.tolist())
    return texts.once(("emitted", *anchors), lambda: _emitted(texts, anchors))


def _emitted(texts: Texts, anchors: set[int]) -> list[int]:
    others = [
        (row, text)
        for row, text in enumerate(texts.base)
        if text is not None and row not in anchors
    ]
    if texts.emitted is not None:
        return sorted([*anchors, *(row for row, _ in others if texts.emitted[row])])
    pieces = texts.segment_in_base([text for _, text in others])
    emitted = [row for (row, _), segment in zip(others, pieces, strict=True) if segment == [row]]
    return sorted([*anchors, *emitted])


def donor_vectors(
    inputs: CodingInputs, texts: Texts, rows: Int64[Tensor, "candidates"]
) -> Float[Tensor, "candidates donor_dim"]:
    """The donor's row of each anchor, and the mean of its rows of the pieces of other tokens.

    Rows that are not finite do not count. A token that the donor cannot segment gets zeros, and so
    do anchors where the inputs have no rows of theirs.
    """
    donor, anchors = inputs.donor, inputs.anchors
    assert donor is not None
    own = {row: i for i, row in enumerate(inputs.anchor_rows.tolist())}
    spelled = [(i, texts.base[row]) for i, row in enumerate(rows.tolist()) if row not in own]
    words = [text for _, text in spelled if text is not None]
    in_donor = texts.shared.of(
        "in donor", [rows, inputs.anchor_rows], lambda: texts.segment_in_donor(words)
    )
    vectors = donor.new_zeros((len(rows), donor.shape[1]), dtype=working_dtype(donor))
    places = torch.tensor([i for i, _ in spelled], dtype=torch.int64, device=donor.device)
    means = MeanRows.of(donor, in_donor)
    each = torch.arange(len(means), device=donor.device)
    for part in strips(len(means), 4 * vectors.itemsize * donor.shape[1]):
        vectors[places[part]] = means.read(each[part], vectors.dtype)
    if anchors is None:
        return vectors
    shared = [(i, own[row]) for i, row in enumerate(rows.tolist()) if row in own]
    places, anchor = torch.tensor(shared, dtype=torch.int64, device=donor.device).reshape(-1, 2).T
    vectors[places] = anchors[anchor].to(vectors.dtype)
    return vectors
