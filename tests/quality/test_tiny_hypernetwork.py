"""A hypernetwork that is trained for a moment: it learns, and a merge by it works."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from merges import swap
from safetensors.torch import load_file
from small_models import load
from transformers import AutoTokenizer

from benchmarks.hypernetwork.making import converted, save, settings
from benchmarks.hypernetwork.training import Training, train
from mergekit_omp.approximation.hypernetwork.config import read_config
from mergekit_omp.vocabulary import Vocabulary

TEXT = "The value of an object is a number. It returns the first item of a list.\n\n" * 40


def test_it_learns_and_serves_a_merge(models: Any, merge: Any, tmp_path: Path) -> None:
    base = models("sp", "sentencepiece_bpe", hidden=16, layers=1)
    model, tokenizer = load(base)
    vocabulary = Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(base), "base")
    pieces = converted(vocabulary)
    config = settings(vocabulary, pieces, width=16, tied=False, hn_predict_bias=False)
    stream = torch.tensor(tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    training = Training(steps=20, batch_size=4, context=16, hidden_others=40, variants=2, warmup=2)
    read = read_config(config, "config.json")
    found = train(read, pieces, vocabulary, model, stream, training)
    again = train(read, pieces, vocabulary, model, stream, training)
    assert found.loss == again.loss
    still = dataclasses.replace(training, steps=1, learning_rate=1e-9)
    started = train(read, pieces, vocabulary, model, stream, still)
    changed = [n for n, t in found.weights.items() if not torch.equal(t, started.weights[n])]
    assert len(changed) > 30
    made = save(tmp_path / "network", config, pieces, found.weights)
    assert load_file(made / "model.safetensors").keys() == found.weights.keys()
    donor = models("bytes", "byte_level", hidden=16, layers=1)
    out = merge(swap(base, donor, "zett", parameters={"hypernetwork": str(made)}))
    load(out)
    entry = json.loads((out / "tokenizer_transplant.json").read_text())["models"][0]["tensors"][0]
    assert entry["hypernetwork"]["predicted"] == entry["counts"]["approximated"] > 200
