"""How transformers reads a model directory: in this process, or an older release in its own.

As a program (`python tests/readers.py`, with another transformers on PYTHONPATH) it answers one
line of JSON for each request on its input, so that one process reads many models.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

OLDER = Path(__file__).resolve().parents[1] / ".readers" / "transformers-4.57.6"
"""transformers 4.57 with the tokenizers and huggingface_hub that it asks for; see the Makefile."""
ROLES = ("bos", "eos", "pad", "unk")


def read(
    path: str | Path,
    texts: list[str],
    *,
    trust: bool | None = None,
    model: bool = True,
    kind: str = "AutoModelForCausalLM",
    ids: list[int] | None = None,
) -> dict[str, Any]:
    """What transformers makes of texts, of role ids and, with `model`, of the weights.

    `logits` are those of `ids`, or else of the first text's tokens. Raises what transformers
    raises.
    """
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=trust)
    encoded = [tokenizer(text) for text in texts]
    found = {
        "ids": [each["input_ids"] for each in encoded],
        "plain": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
        "inputs": sorted(encoded[0]) if encoded else [],
        "texts": [tokenizer.decode(each["input_ids"]) for each in encoded],
        "roles": {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES},
        "special": sorted(tokenizer.all_special_ids),
        "padding_side": tokenizer.padding_side,
        "template": tokenizer.chat_template,
        "class": type(tokenizer).__name__,
    }
    if not model:
        return found
    loaded, info = getattr(transformers, kind).from_pretrained(
        path, output_loading_info=True, trust_remote_code=trust
    )
    loaded = loaded.eval().float()
    with torch.no_grad():
        read_ids = found["plain"][0] if ids is None else ids
        logits = loaded(input_ids=torch.tensor([read_ids])).logits[0]
    generation = loaded.generation_config
    return found | {
        "problems": {key: sorted(map(str, value)) for key, value in info.items() if value},
        "logits": logits.tolist(),
        "stops": generation.eos_token_id,
        "vocab_size": loaded.config.get_text_config().vocab_size,
    }


class OlderTransformers:
    """transformers 4.57 in a process of its own; a context manager."""

    def __enter__(self) -> OlderTransformers:
        if not OLDER.is_dir():
            raise FileNotFoundError(f"there is no {OLDER}; `make readers` installs it")
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(OLDER), "HF_HUB_OFFLINE": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def read(self, path: Path, texts: list[str], **options: Any) -> dict[str, Any]:
        """The same as `read`; RuntimeError with what transformers said."""
        request = json.dumps({"path": str(path), "texts": texts, **options})
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return dict(answer)


def main() -> None:
    # What transformers prints must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    import transformers

    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = read(**request) | {"version": transformers.__version__}
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is to see it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
