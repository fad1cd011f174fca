"""Coverage-guided fuzz of the readers with atheris; a program, apart from the suite.

    pip install atheris
    PYTHONPATH=tests python tests/hostile/coverage_fuzz.py record -max_total_time=60

The first word names the reader; the rest are libFuzzer's options. It ends with an error at the first
input that a reader neither takes nor refuses in a sentence.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mergekit_omp"]):
    from hostile.test_readers_fuzz import ARCHIVE, RECORD, WANTED, WEIGHTS

    from mergekit_omp.errors import TransplantError
    from mergekit_omp.evaluation.documents import read_documents
    from mergekit_omp.models.weight_files import check_weights
    from mergekit_omp.outside.archives import read_arrays
    from mergekit_omp.outside.files import read_yaml
    from mergekit_omp.record.id_ranges import read
    from mergekit_omp.record.reading import read_record

import json

FOLDER = Path(tempfile.mkdtemp(prefix="coverage-fuzz-"))


def from_file(
    name: str, reader: Callable[[Path], object], refusal: type[Exception] = TransplantError
) -> Callable[[bytes], None]:
    path = FOLDER / name

    def one(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(refusal):
            reader(path)

    return one


def ranges(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        read(data.decode("utf-8", "replace"), 1000)


READERS: dict[str, tuple[Callable[[bytes], None], bytes]] = {
    "record": (from_file("tokenizer_transplant.json", read_record), json.dumps(RECORD).encode()),
    "archive": (
        from_file("facts.npz", lambda path: read_arrays(path, WANTED, "Merge again.")),
        ARCHIVE,
    ),
    "weights": (
        from_file("model.safetensors", lambda path: check_weights(path.parent, "The model")),
        WEIGHTS,
    ),
    "yaml": (from_file("config.yml", read_yaml), b"merge_method: omp\nmodels: [{model: a}]\n"),
    "texts": (
        from_file("t.jsonl", lambda path: read_documents([path]), ValueError),
        b'{"text": "a"}\n',
    ),
    "ranges": (ranges, b"3 7-12"),
}


def main() -> None:
    name, *options = sys.argv[1:]
    reader, seed = READERS[name]
    seeds = FOLDER / "seeds"
    seeds.mkdir()
    (seeds / "whole").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options, str(seeds)], reader)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
