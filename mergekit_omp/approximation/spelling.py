"""Which of the base's tokens are spelled most like a word: cosines of counted character n-grams.

The usual bag of n-grams with logarithmic counts and inverse document frequencies (tf-idf; Salton &
Buckley 1988). Letters of either case are the same, and so are words with and without a space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Float32, Int32, Int64, UInt64
from torch import Tensor

from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.kernels.compiled import kernel, obstacle
from mergekit_omp.kernels.threads import in_threads

LENGTHS = (2, 3, 4, 5)
"""Of the n-grams, in bytes."""
RUN = 64
"""Words that are passed over at once."""
KIND = np.uint64(56)
"""Bits of a gram's key below those that say what it is: its length, or one of the following."""
BARE, EXACT = 8, 9
"""Without its space and in lower case a word is one gram, and so are its very bytes."""
COMMON, COMMON_SHARE = 50, 0.02
"""A gram that comes up more often than the first, and than the second times the number of words, is
left out: it tells least, and there are most words to compare for it."""


class Spellings:
    """Words that others are compared with."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self._bare = _numbered([_bare(word) for word in words])
        self._exact = _numbered(words)
        keys, starts = self._grams(words)
        known, columns, times = np.unique(keys, return_inverse=True, return_counts=True)
        rare = times <= max(COMMON, COMMON_SHARE * len(words))
        self._known = known[rare]
        there, place = rare[columns], rare.cumsum() - 1
        counted = self._counted(place[columns[there]], _among(there, starts))
        documents = np.bincount(counted.indices, minlength=len(self._known))
        self._rarity = np.log((1 + len(words)) / (1 + documents)) + 1
        self._words = self._weighted(counted).T.tocsr()

    def nearest(
        self,
        words: Sequence[bytes | None],
        count: int,
        themselves: Int64[Tensor, "asked"] | None = None,
    ) -> tuple[Float[Tensor, "asked count"], Int64[Tensor, "asked count"]]:
        """The cosines of each word with the `count` that are spelled most like it, and which these
        are. Those that have no n-gram in common with it have a cosine of 0, as has the word that
        it is itself, where `themselves` says which."""
        keys, starts = self._grams([word or b"" for word in words])
        places = np.searchsorted(self._known, keys)
        there = places < len(self._known)
        there[there] = self._known[places[there]] == keys[there]
        asked = self._weighted(self._counted(places[there], _among(there, starts)))
        own = torch.full((len(words),), -1) if themselves is None else themselves.cpu()
        cosines = torch.zeros((len(words), count))
        whose = torch.zeros((len(words), count), dtype=torch.int64)
        if obstacle() is not None:
            for part in chunks(len(words), 8 * self._words.shape[1]):
                every = torch.from_numpy((asked[part] @ self._words).toarray())
                if themselves is not None:
                    every.scatter_(1, own[part, None], 0)
                cosines[part], whose[part] = every.topk(count, dim=1)
            return cosines, whose
        of_asked = asked.indptr, asked.indices, asked.data
        of_grams = self._words.indptr, self._words.indices, self._words.data
        size, found = self._words.shape[1], (cosines.numpy(), whose.numpy())

        def work(first: int, last: int) -> None:
            sums = np.zeros(size, np.float32)
            most_alike(first, last, *of_asked, *of_grams, own.numpy(), sums, *found)

        in_threads(work, len(words))
        return cosines, whose

    def _grams(
        self, words: Sequence[bytes]
    ) -> tuple[UInt64[np.ndarray, "grams"], Int64[np.ndarray, "boundaries"]]:
        """The keys of each word's grams, one word's after another's, and where each word's begin."""
        bare = [_bare(word) for word in words]
        marked = [b"<" + word + b">" for word in bare]
        sizes = np.array([len(word) for word in marked], dtype=np.int64)
        text = np.frombuffer(b"".join(marked), np.uint8).astype(np.uint64)
        ends = sizes.cumsum().repeat(sizes)
        whose = np.arange(len(words)).repeat(sizes)
        found, owners = [], []
        for length in LENGTHS:
            at = np.flatnonzero(np.arange(len(text)) + length <= ends)
            key = np.full(len(at), np.uint64(length) << KIND)
            for step in range(length):
                key |= text[at + step] << np.uint64(8 * step)
            found.append(key)
            owners.append(whose[at])
        of_bare = [self._bare.get(word, -1) for word in bare]
        of_exact = [self._exact.get(word, -1) for word in words]
        for kind, numbers in (BARE, of_bare), (BARE, of_bare), (EXACT, of_exact):
            there = np.flatnonzero(np.array(numbers, dtype=np.int64) >= 0)
            number = np.array(numbers, dtype=np.int64)[there].astype(np.uint64)
            found.append(number | (np.uint64(kind) << KIND))
            owners.append(there)
        keys, owner = np.concatenate(found), np.concatenate(owners)
        order = owner.argsort(kind="stable")
        return keys[order], np.searchsorted(owner[order], np.arange(len(words) + 1))

    def _counted(
        self, columns: Int64[np.ndarray, "grams"], starts: Int64[np.ndarray, "boundaries"]
    ) -> scipy.sparse.csr_matrix:
        """How often each word has each gram."""
        shape = (len(starts) - 1, len(self._known))
        counted = scipy.sparse.csr_matrix((np.ones(len(columns)), columns, starts), shape=shape)
        counted.sum_duplicates()
        return counted

    def _weighted(self, counted: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
        """A row of length 1 for each word."""
        data = (1 + np.log(counted.data)) * self._rarity[counted.indices]
        rows = np.repeat(np.arange(counted.shape[0]), np.diff(counted.indptr))
        squares = np.bincount(rows, data**2, minlength=counted.shape[0])
        data /= np.sqrt(squares)[rows]
        parts = data.astype(np.float32), counted.indices, counted.indptr
        return scipy.sparse.csr_matrix(parts, shape=counted.shape)


def _among(
    there: Bool[np.ndarray, "grams"], starts: Int64[np.ndarray, "boundaries"]
) -> Int64[np.ndarray, "boundaries"]:
    """Boundaries among all grams as boundaries among those that are there."""
    return np.concatenate([[0], there.cumsum()])[starts]


def _bare(word: bytes) -> bytes:
    return word.strip().lower()


def _numbered(words: Sequence[bytes]) -> dict[bytes, int]:
    return {word: i for i, word in enumerate(dict.fromkeys(words))}


@kernel
def most_alike(
    first: int,
    last: int,
    starts: Int32[np.ndarray, "boundaries"],
    grams: Int32[np.ndarray, "entries"],
    weights: Float32[np.ndarray, "entries"],
    bounds: Int32[np.ndarray, "gram_boundaries"],
    words: Int32[np.ndarray, "gram_entries"],
    shares: Float32[np.ndarray, "gram_entries"],
    own: Int64[np.ndarray, "asked"],
    sums: Float32[np.ndarray, "words"],
    cosines: Float32[np.ndarray, "asked count"],
    whose: Int64[np.ndarray, "asked count"],
) -> None:
    """Writes the largest cosines of the words `first` to `last` that are asked for, and with whom.

    Of equal cosines the word that comes first. `sums` are zeros before and after.
    """
    for row in range(first, last):
        for entry in range(starts[row], starts[row + 1]):
            weight, gram = weights[entry], grams[entry]
            for at in range(bounds[gram], bounds[gram + 1]):
                sums[words[at]] += weight * shares[at]
        if own[row] >= 0:
            sums[own[row]] = 0
        best, of_whom = cosines[row], whose[row]
        low = run_above(sums, best[best.shape[0] - 1], 0)
        while low < sums.shape[0]:
            run = sums[low : low + RUN]
            for x in range(run.shape[0]):
                place = best.shape[0]
                while place > 0 and run[x] > best[place - 1]:
                    if place < best.shape[0]:
                        best[place], of_whom[place] = best[place - 1], of_whom[place - 1]
                    place -= 1
                if place < best.shape[0]:
                    best[place], of_whom[place] = run[x], low + x
            low = run_above(sums, best[best.shape[0] - 1], low + RUN)
        sums[:] = 0


@kernel
def run_above(sums: Float32[np.ndarray, "words"], level: np.float32, first: int) -> int:
    """Where the first run from `first` on begins that has a sum above a level; the end if none."""
    for low in range(first, sums.shape[0], RUN):
        run = sums[low : low + RUN]
        # A count as wide as the sums, so that as many are compared at once.
        some = np.int32(0)
        for x in range(run.shape[0]):
            some = np.int32(some + np.int32(run[x] > level))
        if some:
            return low
    return sums.shape[0]
