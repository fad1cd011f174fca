"""Which of the base's tokens are spelled most like a word: cosines of counted character n-grams.

The usual bag of n-grams with logarithmic counts and inverse document frequencies (tf-idf; Salton &
Buckley 1988). Letters of either case are the same, and so are words with and without a space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mergekit_omp.approximation.chunks import chunks

LENGTHS = (2, 3, 4, 5)
"""Of the n-grams, in bytes."""


class Spellings:
    """Words that others are compared with."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self._ids: dict[bytes, int] = {}
        grams = [_grams(word) for word in words]
        for found in grams:
            for gram in found:
                self._ids.setdefault(gram, len(self._ids))
        documents = np.zeros(len(self._ids))
        for found in grams:
            documents[[self._ids[gram] for gram in found]] += 1
        self._rarity = np.log((1 + len(words)) / (1 + documents)) + 1
        self._words = self._matrix(grams).T.tocsr()

    def nearest(
        self,
        words: Sequence[bytes | None],
        count: int,
        themselves: Int64[Tensor, "asked"] | None = None,
    ) -> tuple[Float[Tensor, "asked count"], Int64[Tensor, "asked count"]]:
        """The cosines of each word with the `count` that are spelled most like it, and which these
        are. Those that have no n-gram in common with it have a cosine of 0, as has the word that
        it is itself, where `themselves` says which."""
        cosines = torch.zeros((len(words), count))
        whose = torch.zeros((len(words), count), dtype=torch.int64)
        for part in chunks(len(words), 8 * self._words.shape[1]):
            asked = self._matrix([_grams(word or b"") for word in words[part]])
            every = torch.from_numpy((asked @ self._words).toarray())
            if themselves is not None:
                every.scatter_(1, themselves[part, None].to(every.device), 0)
            cosines[part], whose[part] = every.topk(count, dim=1)
        return cosines, whose

    def _matrix(self, grams: Sequence[Counter[bytes]]) -> scipy.sparse.csr_matrix:
        """A row of length 1 for each word; grams without an id are left out."""
        starts, columns, counts = [0], [], []
        for found in grams:
            known = [(self._ids[gram], times) for gram, times in found.items() if gram in self._ids]
            columns += [column for column, _ in known]
            counts += [times for _, times in known]
            starts.append(len(columns))
        data = (1 + np.log(np.array(counts, dtype=np.float64))) * self._rarity[columns]
        rows = np.repeat(np.arange(len(grams)), np.diff(starts))
        squares = np.bincount(rows, data**2, minlength=len(grams))
        data /= np.sqrt(squares)[rows]
        shape = (len(grams), len(self._ids))
        return scipy.sparse.csr_matrix((data.astype(np.float32), columns, starts), shape=shape)


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
