"""What the README says of transplant-vocab: that `subword`, so set, gives the rows of its rule.

The rule is written here from its own documentation: a token is decoded alone, the text encoded by
the model's tokenizer; the input gets the row of the last piece, the head a mean whose weights decay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from merges import swap
from small_models import load, matrices, save_model
from trained_tokenizers import byte_level

SEQUENCE = "<|im_start|>the value\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base, and a target of more tokens and some rows of padding, that both spell bytes."""
    root = tmp_path_factory.mktemp("transplant-vocab")
    ours, theirs = byte_level(), byte_level(2600)
    ours.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    theirs.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|tool|>"]})
    return (
        save_model(root / "base", ours, layers=1, hidden=16),
        save_model(root / "target", theirs, layers=1, hidden=16, seed=1, rows=2624),
    )


def by_its_rule(
    base: Path, target: Path, decay: float, overrides: dict[str, str]
) -> Iterator[tuple[int, str, torch.Tensor, torch.Tensor]]:
    """Id, text, row of the input, and row of the head of every token."""
    (own, ours), (_, theirs) = load(base), load(target)
    rows = [
        own.get_input_embeddings().weight.detach(),
        own.get_output_embeddings().weight.detach(),
    ]
    named = {theirs.convert_tokens_to_ids(token): text for token, text in overrides.items()}
    roles = {
        getattr(theirs, f"{role}_token_id"): getattr(ours, f"{role}_token_id")
        for role in ("bos", "eos", "pad")
    }
    for i in range(len(theirs)):
        text = theirs.decode([i])
        pieces = (
            [roles[i]] if i in roles else ours.encode(named.get(i, text), add_special_tokens=False)
        )
        weights = torch.tensor([decay**at for at in range(len(pieces))])
        head = (weights[:, None] * rows[1][pieces]).sum(0) / weights.sum()
        yield i, text, rows[0][pieces[-1]], head


@pytest.mark.parametrize(
    ("decay", "overrides"), [(0.5, {}), (0.0, {}), (0.25, {"<|user|>": SEQUENCE}), (1.0, {})]
)
def test_subword_so_set_gives_its_rows(
    decay: float,
    overrides: dict[str, str],
    pair: tuple[Path, Path],
    merge: Callable[..., Path],
) -> None:
    base, target = pair
    settings = {"input": "last", "match_donor_rows": True, "decay": decay}
    config: dict[str, Any] = swap(base, target, "subword", parameters=settings)
    if overrides:
        del config["tokenizer_source"]
        tokens = {
            token: {
                "source": {"kind": "model_token", "model": str(base), "token": text},
                "force": True,
            }
            for token, text in overrides.items()
        }
        config["tokenizer"] = {"source": str(target), "tokens": tokens}
    ours = matrices(merge(config))
    assert len(ours[0]) == 2624
    others = set()
    for i, text, *wanted in by_its_rule(base, target, decay, overrides):
        if not all(
            torch.allclose(made[i], row, atol=1e-6) for made, row in zip(ours, wanted, strict=True)
        ):
            others.add(text)
    # It reads halves of a character as a replacement character, and spells markup out as text.
    markup = {"<|user|>", "<|tool|>", "<|unknown|>"} - overrides.keys()
    assert {text for text in others if "\ufffd" not in text} <= markup
    assert markup - others <= {"<|unknown|>"}
