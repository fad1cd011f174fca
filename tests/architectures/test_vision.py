"""Vision-language models: several modules, of which the text module alone has a vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import BYTES, SENTENCEPIECE, VISION_FAMILIES, save_vision_model
from merges import record, swap
from readers import OlderTransformers
from transformers import AutoModelForImageTextToText, AutoTokenizer

from mergekit_omp import Vocabulary, align


def load_whole(path: Path) -> Any:
    model, info = AutoModelForImageTextToText.from_pretrained(path, output_loading_info=True)
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    return model.eval()


@pytest.mark.parametrize("name", VISION_FAMILIES)
def test_a_text_donor(
    name: str,
    models: Any,
    real_tokenizer: Any,
    tmp_path: Path,
    merge: Any,
    older: OlderTransformers,
) -> None:
    family = VISION_FAMILIES[name]
    base = save_vision_model(tmp_path / "base", name, real_tokenizer(family.tokenizer))
    kind = BYTES if family.tokenizer == SENTENCEPIECE else SENTENCEPIECE
    donor = models("donor", kind, hidden=16, layers=1, seed=3)
    config = swap(base, donor, parameters={"k": 4})
    del config["tokenizer_source"]
    config["tokenizer"] = {"source": str(donor), "pad_to_multiple_of": 64}
    out = merge(config)

    swapped, original = load_whole(out), load_whole(base)
    tokenizers = [AutoTokenizer.from_pretrained(path) for path in (base, out)]
    found = align(*(Vocabulary.from_tokenizer(t, str(i)) for i, t in enumerate(tokenizers)))
    copied = np.flatnonzero(found.source >= 0)
    rows = {swapped.get_input_embeddings().weight.shape[0], swapped.lm_head.weight.shape[0]}
    assert rows == {2048} == {swapped.config.get_text_config().vocab_size}
    for ours, theirs in zip(
        (swapped.get_input_embeddings().weight, swapped.lm_head.weight),
        (original.get_input_embeddings().weight, original.lm_head.weight),
        strict=True,
    ):
        assert torch.equal(ours[copied], theirs[found.source[copied]])
    # All that is not vocabulary is the base's, the vision tower included.
    mine, other = swapped.state_dict(), original.state_dict()
    assert mine.keys() == other.keys()
    for key in other:
        if "embed_tokens" not in key and "lm_head" not in key:
            assert torch.equal(mine[key], other[key]), key

    # Ids of image tokens in the config move along with their tokens.
    before = json.loads((base / "config.json").read_text())
    after = json.loads((out / "config.json").read_text())
    moved = [key for key in family.settings if "token_i" in key and "image" in key]
    assert moved
    warnings = record(out)["warnings"]
    for key in moved:
        where = np.flatnonzero(found.source == before[key])
        if len(where):
            assert after[key] == where[0]
        else:
            assert any(key in warning for warning in warnings)

    ids = copied[np.linspace(300, len(copied) - 1, 12).astype(int)]
    ids = ids[~np.isin(found.source[ids], [v for k, v in before.items() if "token_i" in k])]
    with torch.no_grad():
        ours = swapped(input_ids=torch.from_numpy(ids)[None])
        theirs = original(input_ids=torch.from_numpy(found.source[ids])[None])
    torch.testing.assert_close(
        ours.logits[..., copied], theirs.logits[..., found.source[copied]], rtol=1e-5, atol=1e-5
    )
    read = older.read(out, [], ids=ids.tolist(), kind="AutoModelForImageTextToText")
    torch.testing.assert_close(torch.tensor(read["logits"]), ours.logits[0], rtol=1e-5, atol=1e-5)
