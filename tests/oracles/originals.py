"""WECHSEL, FOCUS and CLP against their published packages, whole.

Not collected by default: `wechsel` and `deepfocus` want fastText, which is compiled on
installation. With the test extra installed:

    pip install -c constraints.txt deepfocus==1.0.1 wechsel==0.0.4 gensim more-itertools platformdirs
    pip install --no-deps langsfer==0.1.0
    pytest tests/oracles/originals.py

Their loading of fastText models is replaced by given vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import deepfocus.focus
import numpy as np
import pytest
import torch
from langsfer.high_level import clp_transfer
from safetensors.torch import save_file
from wechsel import create_target_embeddings

from mergekit_omp.approximation import CodingInputs, MissingRows, Part, Texts
from mergekit_omp.approximation.clp import Clp
from mergekit_omp.approximation.focus import Focus
from mergekit_omp.approximation.wechsel import Wechsel

DIM, WIDTH = 20, 12
SHARED = [f"shared{i}" for i in range(150)]
BASE = [f"base{i}" for i in range(60)] + SHARED
DONOR = [
    token for pair in zip(SHARED, [f"new{i}" for i in range(150)], strict=True) for token in pair
]
MISSING = [token for token in DONOR if token not in BASE]


class Words:
    """A tokenizer of whole words, as far as the originals ask."""

    all_special_tokens: tuple[str, ...] = ()
    special_tokens_map: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.vocab = {word: i for i, word in enumerate(words)}

    def __len__(self) -> int:
        return len(self.words)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.vocab)

    def decode(self, token: int) -> str:
        return self.words[token]

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> str | list[str]:
        return self.words[ids] if isinstance(ids, int) else [self.words[i] for i in ids]

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]:
        return [self.vocab[token] for token in tokens]

    def segment(self, texts: Sequence[bytes]) -> list[list[int]]:
        found = (self.vocab.get(text.decode()) for text in texts)
        return [[] if row is None else [row] for row in found]


class Vectors:
    """What langsfer calls auxiliary embeddings."""

    def __init__(self, vectors: dict[str, np.ndarray]) -> None:
        self.vectors = vectors
        self.embeddings_matrix = np.stack(list(vectors.values()))

    def get_vector_for_token(self, token: str) -> np.ndarray:
        return self.vectors[token]


@pytest.fixture
def vectors() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    words = sorted({*BASE, *DONOR})
    return {word: (generator.normal(size=DIM) + 0.4).astype(np.float32) for word in words}


@pytest.fixture
def base() -> torch.Tensor:
    return torch.randn(len(BASE), WIDTH, generator=torch.Generator().manual_seed(1))


def problem(base: torch.Tensor, vectors: dict[str, np.ndarray] | None) -> MissingRows:
    """The missing tokens, with `vectors` as donor rows, or with texts alone."""
    rows = None
    if vectors is not None:
        rows = torch.from_numpy(np.stack([vectors[word] for word in DONOR])).to(base.dtype)
    return MissingRows(
        part=Part.INPUT,
        base=base,
        inputs=CodingInputs(
            missing=len(MISSING),
            anchor_rows=torch.tensor([BASE.index(word) for word in SHARED]),
            targets=None if rows is None else rows[[DONOR.index(word) for word in MISSING]],
            anchors=None if rows is None else rows[[DONOR.index(word) for word in SHARED]],
            donor=rows,
            texts=Texts(
                missing=[word.encode() for word in MISSING],
                base=[word.encode() for word in BASE],
                donor=[word.encode() for word in DONOR],
                segment_in_base=Words(BASE).segment,
                segment_in_donor=Words(DONOR).segment,
            ),
        ),
    )


@pytest.fixture
def file(vectors: dict[str, np.ndarray], tmp_path: Path) -> str:
    path = tmp_path / "vectors.safetensors"
    save_file({word: torch.from_numpy(vector) for word, vector in vectors.items()}, path)
    return str(path)


@pytest.mark.parametrize(("neighbors", "temperature"), [(10, 0.1), (3, 0.7)])
def test_wechsel(
    vectors: dict[str, np.ndarray],
    base: torch.Tensor,
    file: str,
    neighbors: int,
    temperature: float,
) -> None:
    theirs, not_found, _ = create_target_embeddings(
        np.stack([vectors[word] for word in BASE]).astype(np.float64),
        np.stack([vectors[word] for word in DONOR]).astype(np.float64),
        Words(BASE),
        Words(DONOR),
        base.double().numpy(),
        neighbors=neighbors,
        temperature=temperature,
        verbose=False,
    )
    assert not not_found
    ours = Wechsel(neighbors=neighbors, temperature=temperature, auxiliary=file)
    rows = ours.rows(problem(base, None))
    expected = theirs[[DONOR.index(word) for word in MISSING]]
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("from_file", [False, True])
def test_focus(
    vectors: dict[str, np.ndarray],
    base: torch.Tensor,
    file: str,
    from_file: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = MISSING[3]
    known = {word: vector for word, vector in vectors.items() if word != absent}
    monkeypatch.setattr(deepfocus.focus, "load_target_token_embedding", lambda **_: known)
    theirs = deepfocus.focus.FOCUS(
        target_tokenizer=Words(DONOR),
        source_tokenizer=Words(BASE),
        source_embeddings=base,
        fasttext_model_path="given",
        verbosity="silent",
    )
    ours = Focus(auxiliary=file) if from_file else Focus()
    rows = ours.rows(problem(base, None if from_file else vectors))
    known_missing = [i for i, word in enumerate(MISSING) if word != absent]
    expected = theirs[[DONOR.index(word) for word in MISSING]]
    np.testing.assert_allclose(rows[known_missing], expected[known_missing], rtol=0, atol=1e-5)


def test_clp(vectors: dict[str, np.ndarray], base: torch.Tensor) -> None:
    base = base.double()
    double = {word: vector.astype(np.float64) for word, vector in vectors.items()}
    theirs = clp_transfer(Words(BASE), base.numpy(), Words(DONOR), Vectors(double)).initialize(
        seed=0
    )
    rows = Clp().rows(problem(base, double))
    expected = theirs[[DONOR.index(word) for word in MISSING]]
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-9)
