"""Which of the base's tokens are spelled most like a word: cosines of counted character n-grams.

The usual bag of n-grams with logarithmic counts and inverse document frequencies (tf-idf; Salton &
Buckley 1988). Letters of either case are the same, and so are words with and without a space.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int64
from torch import Tensor

LENGTHS = (2, 3, 4, 5)
"""Of the n-grams, in bytes."""
_BLOCK = 512
"""Words that are compared at a time."""


def nearest_by_spelling(
    words: Sequence[bytes | None], among: Sequence[bytes], count: int
) -> tuple[Float[Tensor, "words count"], Int64[Tensor, "words count"]]:
    """The cosines of each word with the `count` tokens of `among` that are spelled most like it,
    and their indices. Where fewer have an n-gram in common with it the cosines end in zeros."""
    ids: dict[bytes, int] = {}
    grams = [_grams(word) for word in among]
    for found in grams:
        for gram in found:
            ids.setdefault(gram, len(ids))
    documents = np.zeros(len(ids))
    for found in grams:
        documents[[ids[gram] for gram in found]] += 1
    rarity = np.log((1 + len(among)) / (1 + documents)) + 1
    atoms = _matrix(grams, ids, rarity).T.tocsr()
    queries = _matrix([_grams(word or b"") for word in words], ids, rarity)
    cosines = np.zeros((len(words), count), dtype=np.float32)
    whose = np.zeros((len(words), count), dtype=np.int64)
    for first in range(0, len(words), _BLOCK):
        products = (queries[first : first + _BLOCK] @ atoms).tocsr()
        for i, (start, end) in enumerate(zip(products.indptr, products.indptr[1:], strict=False)):
            values, columns = products.data[start:end], products.indices[start:end]
            best = np.lexsort((columns, -values))[:count]
            cosines[first + i, : len(best)] = values[best]
            whose[first + i, : len(best)] = columns[best]
    return torch.from_numpy(cosines), torch.from_numpy(whose)


def _grams(word: bytes) -> Counter[bytes]:
    """How often each n-gram occurs; the whole word, and its exact bytes, are grams of their own."""
    bare = word.strip().lower()
    marked = b"<" + bare + b">"
    found = Counter(
        marked[i : i + length] for length in LENGTHS for i in range(len(marked) - length + 1)
    )
    found[b"word:" + bare] += 2
    found[b"bytes:" + word] += 1
    if word[:1] == b" ":
        found[b"space"] += 1
    return found


def _matrix(
    grams: Sequence[Counter[bytes]], ids: dict[bytes, int], rarity: Float[np.ndarray, "grams"]
) -> scipy.sparse.csr_matrix:
    """A row of length 1 for each word; grams without an id are left out."""
    starts, columns, values = [0], [], []
    for found in grams:
        known = [(ids[gram], 1 + math.log(times)) for gram, times in found.items() if gram in ids]
        columns += [column for column, _ in known]
        values += [value for _, value in known]
        starts.append(len(columns))
    data = np.array(values) * rarity[columns]
    lengths = np.repeat(np.arange(len(grams)), np.diff(starts))
    squares = np.bincount(lengths, data**2, minlength=len(grams))
    data /= np.sqrt(squares)[lengths]
    shape = (len(grams), len(ids))
    return scipy.sparse.csr_matrix((data.astype(np.float32), columns, starts), shape=shape)
