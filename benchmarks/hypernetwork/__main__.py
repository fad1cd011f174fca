"""`python -m benchmarks.hypernetwork`: a tiny hypernetwork against methods without one.

It is trained on the demo's base, which then gets the tokenizer of the demo's donor by `zett` and by
other methods. Printed are bits per byte of held-out text (lower is better) and the seconds of the
merge. With `--cost`: what published sizes cost.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.hypernetwork.making import converted, save, settings
from benchmarks.hypernetwork.training import Training, train
from benchmarks.methods import evaluated, merge
from mergekit_omp.approximation.hypernetwork.config import HypernetworkConfig, read_config
from mergekit_omp.approximation.hypernetwork.network import expected_tensors, multiply_adds
from mergekit_omp.demo.corpus import standard_library_corpus
from mergekit_omp.demo.models import DEMO, default_cache_dir, make_models
from mergekit_omp.demo.training import token_stream
from mergekit_omp.vocabulary import Vocabulary

ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("zett", {}),
    ("zett", {"copy_shared": False}),
    ("subword", {}),
    ("subword", {"input": "weighted"}),
    ("mean", {}),
    ("zero", {}),
    ("kriging", {}),
)
SIZES = {
    # Name: width, hidden, intermediate, separate head.
    "Mistral 7B": (4096, 4096, 8192, True),
    "TinyLlama 1.1B": (2048, 2048, 4096, True),
    "XLM-R base": (768, 768, 1536, False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cache", type=Path, default=None, help="where the demo's models are kept")
    parser.add_argument("--out", type=Path, default=None, help="where to leave the hypernetwork")
    parser.add_argument("--steps", type=int, default=Training.steps)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--cost", action="store_true", help="print what published sizes cost")
    arguments = parser.parse_args()
    if arguments.cost:
        print_cost()
        return
    transformers.utils.logging.disable_progress_bar()
    models = make_models(arguments.cache or default_cache_dir(), announce=print)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        made = make_hypernetwork(
            models.base,
            [document.text for document in standard_library_corpus(DEMO.corpus).train],
            arguments.out or scratch / "hypernetwork",
            arguments.hidden,
            Training(steps=arguments.steps),
        )
        texts = [document.text for document in models.held_out]
        print("\n| method | parameters | bits per byte | seconds |\n|---|---|---:|---:|")
        print(f"| base, own tokenizer | | {evaluated(models.base, texts):.3f} | |", flush=True)
        for i, (method, parameters) in enumerate(ROWS):
            own = {"hypernetwork": str(made)} if method == "zett" else {}
            out = scratch / str(i)
            seconds = merge(method, {**own, **parameters}, models.base, models.donor, str(out))
            written = ", ".join(f"`{name}: {value}`" for name, value in parameters.items())
            score = evaluated(out, texts)
            print(f"| `{method}` | {written} | {score:.3f} | {seconds:.1f} |", flush=True)


def make_hypernetwork(
    base: Path, texts: Sequence[str], out: Path, hidden: int, training: Training
) -> Path:
    """Trains one for a saved model, on text, and writes it as published ones are."""
    tokenizer, model = (
        AutoTokenizer.from_pretrained(base),
        AutoModelForCausalLM.from_pretrained(base),
    )
    vocabulary = Vocabulary.from_tokenizer(tokenizer, str(base))
    stream = token_stream(tokenizer, texts, with_eos=False)
    pieces = converted(vocabulary)
    config = settings(
        vocabulary,
        pieces,
        width=model.config.hidden_size,
        tied=False,
        hn_hidden_size=hidden,
        hn_intermediate_size=2 * hidden,
        hn_predict_bias=False,
        _name_or_path=base.name,
    )
    read = read_config(config, "config.json")
    began = time.perf_counter()
    trained = train(read, pieces, vocabulary, model, stream, training, progress=True)
    print(
        f"Trained for {training.steps} steps in {time.perf_counter() - began:.0f} s on "
        f"{torch.get_num_threads()} threads ({platform.machine()}). The base's loss with tokens "
        f"hidden that were kept out: {trained.loss:.3f}, with the mean row "
        f"in their place {trained.with_mean_rows:.3f}, with their own rows "
        f"{trained.with_own_rows:.3f} (nats a token)."
    )
    return save(out, config, pieces, trained.weights)


def print_cost() -> None:
    """Operations a token by its number of pieces, and the memory of the weights."""
    print("| hypernetwork for | GFLOP a token of 7 pieces | of 2 | weights in float32 |")
    print("|---|---:|---:|---:|")
    for name, (width, hidden, intermediate, separate) in SIZES.items():
        config = HypernetworkConfig(
            vocabulary=32000,
            width=width,
            separate=separate,
            hidden=hidden,
            intermediate=intermediate,
            layers=3,
            heads=hidden // 64,
            longest=7,
            extra=522,
            rescaled=True,
            single_head=False,
            predicts_bias=True,
            languages=(),
            base=None,
        )
        seven, two = (2 * multiply_adds(config, [n], n) / 1e9 for n in (7, 2))
        numbers = sum(
            torch.Size((e.rows or e.shape[0], *e.shape[1:])).numel()
            for e in expected_tensors(config).values()
        )
        print(f"| {name} | {seven:.2f} | {two:.2f} | {4 * numbers / 1e9:.2f} GB |")


if __name__ == "__main__":
    main()
