"""Heads for the tokens after the next: for training further, and then for drafts.

Over-Decoding of "Over-Tokenized Transformers" (Huang et al. 2025, arXiv 2501.16975), with heads as in
Medusa (Cai et al. 2024, arXiv 2401.10774): each is a copy of the model's own behind a residual block
whose last layer is zero. Before training such a head repeats the next token, and predicts nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class FurtherHead(nn.Module):
    """Predicts one of the tokens after the next, from the hidden state that predicts the next."""

    def __init__(self, dim: int, rows: int, bias: bool):
        super().__init__()
        self.inner = nn.Linear(dim, dim)
        self.outer = nn.Linear(dim, dim)
        self.head = nn.Linear(dim, rows, bias=bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., rows] from hidden states [..., dim]."""
        return self.head(hidden + self.outer(nn.functional.silu(self.inner(hidden))))

    def start(self) -> None:
        """As at growth, but for the head, which is a copy of the model's."""
        nn.init.normal_(self.inner.weight, std=self.inner.in_features**-0.5)
        for zero in (self.inner.bias, self.outer.weight, self.outer.bias):
            nn.init.zeros_(zero)


class OverDecoding(nn.Module):
    """Heads for the second token from here, the third, and so on."""

    def __init__(self, settings: dict[str, Any], dim: int, rows: int, softcap: float | None):
        super().__init__()
        self.weight: float = settings["weight"]
        self.softcap = softcap
        self.heads = nn.ModuleList(
            FurtherHead(dim, rows, settings["bias"]) for _ in range(settings["heads"])
        )

    def forward(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """The logits of each head."""
        found = [head(hidden) for head in self.heads]
        if self.softcap is not None:
            found = [torch.tanh(logits / self.softcap) * self.softcap for logits in found]
        return found


class OverDecodes:
    """What a model with such heads does otherwise: the loss, drafts, a resize."""

    over_decoding: OverDecoding | None

    def with_further_loss(self: Any, forward: Any, inputs: dict[str, Any]) -> Any:
        """The answer of the wrapped class; with labels, the loss of further heads beside its own.

        The paper's weight for the second token, 0.1, is that of each further head.
        """
        labels, further = inputs.get("labels"), self.over_decoding
        if labels is None or further is None:
            return forward(self, **inputs)
        asked = inputs.get("output_hidden_states")
        as_tuple = inputs.get("return_dict") is False
        found = forward(self, **{**inputs, "output_hidden_states": True, "return_dict": True})
        items = {name: inputs[name] for name in ("num_items_in_batch",) if name in inputs}
        for ahead, logits in enumerate(further(found.hidden_states[-1]), 1):
            later = nn.functional.pad(labels[:, ahead:], (0, ahead), value=-100)
            found.loss = found.loss + further.weight * self.loss_function(
                logits=logits, labels=later, vocab_size=logits.shape[-1], **items
            )
        if not asked:
            found.hidden_states = None
        return found.to_tuple() if as_tuple else found

    def generate(self, *args: Any, self_speculation: bool = False, **kwargs: Any) -> Any:
        """`self_speculation`: greedy's text in fewer passes, where there are trained heads."""
        if self_speculation:
            if self.over_decoding is None:
                raise ValueError("There are no heads to draft with: grow with --over-decoding.")
            kwargs["custom_generate"] = speculate
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def resize_token_embeddings(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = super().resize_token_embeddings(*args, **kwargs)  # type: ignore[misc]
        for further in self.over_decoding.heads if self.over_decoding is not None else ():
            rows = self.get_output_embeddings().weight.shape[0]
            further.head = self._get_resized_lm_head(further.head, rows)
        return found


@torch.no_grad()
def speculate(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    synced_gpus: bool = False,
    streamer: Any = None,
    **inputs: Any,
) -> torch.Tensor:
    """Greedy generation with drafts of the model's own further heads: the same text in fewer passes.

    What `generate(..., custom_generate=speculate)` calls. Each pass reads the last token and the
    drafts after it; drafts that are what greedy would have said are kept, as in speculative decoding.
    """
    if input_ids.shape[0] != 1 or generation_config.do_sample or generation_config.num_beams != 1:
        raise ValueError(
            "Self-speculation is for one text at a time, greedy: no sampling, no beams."
        )
    mask = inputs.get("attention_mask")
    if mask is not None and not bool(mask.all()):
        raise ValueError("Self-speculation takes a prompt without padding.")
    cache = inputs.get("past_key_values")
    if cache is None or not hasattr(cache, "crop"):
        raise ValueError("Self-speculation needs a cache that can be cut: leave `use_cache` on.")
    # transformers 5: sliding windows keep what they cut off until they are told how much is wrong.
    records = hasattr(cache, "activate_past_recording")
    if records:
        cache.activate_past_recording()
    drafts = input_ids[:, :0]
    while True:
        read = torch.cat([input_ids, drafts], dim=1)
        begin = cache.get_seq_length()
        outputs = model(
            input_ids=read[:, begin:],
            attention_mask=torch.ones_like(read),
            position_ids=torch.arange(begin, read.shape[1], device=read.device)[None],
            past_key_values=cache,
            use_cache=True,
            ngrams=model.ngrams_of(read)[:, begin:],
            output_hidden_states=True,
        )
        last = input_ids.shape[1] - 1 - begin
        for draft in range(drafts.shape[1] + 1):
            logits = outputs.logits[:, last + draft].to(torch.float32, copy=True)
            token = logits_processor(input_ids, logits).argmax(-1, keepdim=True)
            input_ids = torch.cat([input_ids, token], dim=1)
            if streamer is not None:
                streamer.put(token[0].cpu())
            if bool(stopping_criteria(input_ids, None).all()):
                if streamer is not None:
                    streamer.end()
                return input_ids
            if draft < drafts.shape[1] and int(token) != int(drafts[0, draft]):
                break
        # The last token is not read yet: what is in the cache from there on are wrong drafts.
        wrong = cache.get_seq_length() - (input_ids.shape[1] - 1)
        if wrong or records:
            cache.crop(-wrong)
        hidden = outputs.hidden_states[-1][:, last + draft]
        drafts = torch.stack([each.argmax(-1) for each in model.over_decoding(hidden)], dim=1)
