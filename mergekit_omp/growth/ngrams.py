"""What n-grams add to embeddings: hashed tables, rows of chosen n-grams, and the ids they are found by.

Over-Encoding of "Over-Tokenized Transformers" (Huang et al. 2025, arXiv 2501.16975): to the
embedding of a token are added rows of hashed tables for the 2-grams, 3-grams, ... that end in it:

    E[x_t] + sum over tables of T[(sum over j < order of x_(t-j) V^j) mod m] W
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def windows(
    ids: torch.Tensor,
    longest: int,
    mask: torch.Tensor | None = None,
    starts: torch.Tensor | None = None,
) -> torch.Tensor:
    """The ids that end in each token, last first: [batch, length, longest], -1 before the start.

    Args:
        ids: [batch, length], from the start of each sequence.
        longest: how many ids, the token's own among them.
        mask: [batch, length], 0 for padding, which counts as before the start.
        starts: [batch, length], true for tokens that begin a sequence, where several are packed.
    """
    own = ids if mask is None else torch.where(mask.to(torch.bool), ids, -1)
    columns = [own]
    goes_on = own >= 0
    for back in range(1, min(longest, ids.shape[1] + 1)):
        if starts is not None:
            begun = nn.functional.pad(
                starts[:, : ids.shape[1] - back + 1], (back - 1, 0), value=True
            )
            goes_on = goes_on & ~begun
        earlier = nn.functional.pad(own[:, : ids.shape[1] - back], (back, 0), value=-1)
        goes_on = goes_on & (earlier >= 0)
        columns.append(torch.where(goes_on, earlier, -1))
    columns += [torch.full_like(own, -1)] * (longest - len(columns))
    return torch.stack(columns, dim=-1)


class NgramTable(nn.Embedding):
    """One row for each value of the hash; zero at first, so that a grown model is what it was."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


class Projection(nn.Linear):
    """From a table's width to the model's; random at first, or nothing could be learned."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.in_features**-0.5)


class ExactRows(nn.Module):
    """Rows for chosen n-grams, found by their ids and not by a hash that others may share.

    `keys` are sorted; `ngrams` are the ids in the same order, last first, -1 past the end; `rows`
    are the numbers of their rows in `weight`. Where the settings name the ids of `digits`, n-grams
    of digits count only where they end a group of so many, from the left of the number.
    """

    keys: torch.Tensor
    ngrams: torch.Tensor
    rows: torch.Tensor

    def __init__(self, settings: dict[str, Any], dim: int):
        super().__init__()
        entries, self.longest = settings["entries"], settings["longest"]
        self.share, self.own = settings["share"], settings["own"]
        self.digits: list[int] = settings.get("digits", [])
        self.group: int = settings.get("group", 1)
        self.looks_back = max(self.longest, settings.get("digits_back", 0) + 1)
        self.register_buffer("keys", torch.zeros(entries, dtype=torch.int64))
        self.register_buffer("ngrams", torch.full((entries, self.longest), -2, dtype=torch.int64))
        self.register_buffer("rows", torch.zeros(entries, dtype=torch.int64))
        self.weight = nn.Parameter(torch.zeros(settings["rows"], dim))

    @staticmethod
    def key_of(ngrams: torch.Tensor) -> torch.Tensor:
        """One number for each n-gram of [..., longest]; int64 arithmetic wraps, which is meant."""
        key = torch.zeros_like(ngrams[..., 0])
        for place in range(ngrams.shape[-1]):
            key = key * 6364136223846793005 + ngrams[..., place] + 2
        return key

    def find(self, known: torch.Tensor) -> torch.Tensor:
        """The row of the longest n-gram that ends in each token, -1 for none: [batch, length]."""
        found = torch.full_like(known[..., 0], -1)
        in_run = torch.zeros_like(found)
        if self.digits:
            is_digit = (known[..., None] == known.new_tensor(self.digits)).any(-1)
            in_run = is_digit.long().cumprod(-1).sum(-1)
        for length in range(2, self.longest + 1):
            wanted = known[..., : self.longest].clone()
            wanted[..., length:] = -1
            at = torch.searchsorted(self.keys, self.key_of(wanted)).clamp_(max=len(self.keys) - 1)
            same = (self.ngrams[at] == wanted).all(-1) & (known[..., length - 1] >= 0)
            if self.digits:
                # Past what is looked back over, nobody knows where the groups begin.
                ends = ((in_run - 1) % self.group + 1 == length) & (in_run < self.looks_back)
                same &= (in_run < length) | ends
            found = torch.where(same, self.rows[at], found)
        return found

    def forward(self, embedded: torch.Tensor, known: torch.Tensor, scale: Any) -> torch.Tensor:
        """Embeddings with rows in their place. `scale`: by which the embedding multiplies its own."""
        found = self.find(known)
        rows = nn.functional.embedding(found.clamp(min=0), self.weight).to(embedded.dtype) * scale
        mixed = rows * self.share + embedded * self.own
        return torch.where((found >= 0)[..., None], mixed, embedded)


class OverEncoding(nn.Module):
    """What n-grams add to the embeddings of tokens."""

    def __init__(self, settings: dict[str, Any], dim: int):
        super().__init__()
        self.hash_base = settings["hash_base"]
        self.embed_scale: float = settings.get("embed_scale", 1.0)
        """What the input embedding multiplied its rows by when the tables were added."""
        self.shapes: list[dict[str, int]] = settings["tables"]
        self.longest = max([1, *(shape["order"] for shape in self.shapes)])
        self.tables = nn.ModuleList(
            NgramTable(shape["rows"], settings["width"]) for shape in self.shapes
        )
        self.projections = nn.ModuleList(
            Projection(settings["width"], dim, bias=False) for _ in self.shapes
        )
        self.exact: ExactRows | None = None
        if exact := settings.get("exact"):
            self.exact = ExactRows(exact, dim)
            self.longest = max(self.longest, self.exact.looks_back)

    def hashed(self, known: torch.Tensor, order: int, rows: int) -> torch.Tensor:
        """The row of each token's n-gram; ids before the start count as 0."""
        total, power = torch.zeros_like(known[..., 0]), 1
        for back in range(order):
            total = (total + known[..., back].clamp(min=0) * power) % rows
            power = power * self.hash_base % rows
        return total

    def forward(
        self, embedded: torch.Tensor, known: torch.Tensor, scale: Any = None
    ) -> torch.Tensor:
        """Embeddings with what n-grams add.

        Args:
            embedded: [batch, length, dim], the tokens' own.
            known: [batch, length, longest], as from `windows`.
            scale: by which the embedding multiplies its rows, where it does. A release of
                transformers may have the layer after it do so (Gemma 2 in 4.57); then what tables
                add is multiplied as well, and is divided by it before.
        """
        later = self.embed_scale if scale is None else 1.0
        scale = 1 if scale is None else scale
        if self.exact is not None:
            embedded = self.exact(embedded, known, scale)
        for shape, table, projection in zip(
            self.shapes, self.tables, self.projections, strict=True
        ):
            rows = table(self.hashed(known, shape["order"], shape["rows"]))
            embedded = embedded + (projection(rows) / later).to(embedded.dtype)
        return embedded
