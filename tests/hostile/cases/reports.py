"""What `report` reads: a record, a file of arrays, a config, the output itself."""

from __future__ import annotations

import copy
import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from hostile.cases.tokenizers import at, without
from hostile.scene import (
    Case,
    Edit,
    Scene,
    both,
    cut,
    in_json,
    refused,
    remove,
    right,
    tokenizer,
    write,
)

RECORD, ARRAYS, CONFIG = (
    "tokenizer_transplant.json",
    "tokenizer_transplant.npz",
    "mergekit_config.yml",
)


def reported(*options: str) -> Edit:
    """Report on the scene's output, without the checks that take a while."""

    def edit(scene: Scene) -> None:
        scene.arguments["report"] = [str(scene.out), "--hidden", "0", "--markdown", *options]

    return edit


def bad(name: str, edit: Edit, *says: str) -> Case:
    return refused(f"report: {name}", both(edit, reported()), "{out}", *says, commands=["report"])


def good(name: str, edit: Edit) -> Case:
    return right(f"report: {name}", both(edit, reported()), ["report"])


def record(change: Callable[[Any], Any]) -> Edit:
    return in_json("out", RECORD, change)


def entry(*path: Any, value: Any) -> Edit:
    """A record whose first tensor says something else."""
    return record(at("models", 0, "tensors", 0, *path, value=value))


def models(count: int) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        one = content["models"][0]
        content["models"] = [{**copy.deepcopy(one), "model": f"m{i}"} for i in range(count)]

    return change


def arrays(change: Callable[[dict[str, np.ndarray]], Any]) -> Edit:
    def edit(scene: Scene) -> None:
        with np.load(scene.out / ARRAYS) as file:
            held = dict(file)
        changed = change(held)
        np.savez_compressed(scene.out / ARRAYS, **(held if changed is None else changed))

    return edit


def bomb(scene: Scene) -> None:
    """Forty MB of zeros, of five GB that the array is said to have, in a file of a few KB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|i1", "fortran_order": False, "shape": (5 << 30,)}
    )
    with (
        zipfile.ZipFile(scene.out / ARRAYS, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("origin.0.0.npy", "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(40):
            member.write(bytes(1 << 20))


def lying_header(scene: Scene) -> None:
    """An array that says to be larger than the archive says its bytes are."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|i1", "fortran_order": False, "shape": (1 << 40,)}
    )
    with zipfile.ZipFile(scene.out / ARRAYS, "w") as archive:
        archive.writestr("origin.0.0.npy", header.getvalue() + bytes(100))


CASES: list[Case] = [
    good("as it is", lambda scene: None),
    *(
        bad(f"a record of {name}", write("out", RECORD, content), RECORD)
        for name, content in {
            "nothing": "",
            "a list": "[]",
            "null": "null",
            "text": "hello",
            "an empty object": "{}",
            "a nest": '{"a":' * 5000 + "1" + "}" * 5000,
            "bytes": b"\xff\x00",
        }.items()
    ),
    *(
        bad(f"a record without {key}", record(without(key)), RECORD, key)
        for key in ("merge_method", "output", "models", "warnings", "versions")
    ),
    bad("a record of 200 models", record(models(200)), RECORD, "200 models"),
    bad("a record of no models", record(at("models", value=[])), RECORD, "models"),
    bad("a record whose models are numbers", record(at("models", value=[1])), RECORD),
    bad("a model twice", record(lambda r: r["models"].append(r["models"][0])), RECORD, "2 times"),
    bad("another layout", record(at("format", value=99)), RECORD, "99"),
    bad("rows of -1", entry("counts", "rows", value=-1), RECORD, "rows"),
    bad("rows of 10^15", entry("counts", "rows", value=10**15), RECORD, "rows"),
    bad("rows as text", entry("counts", "rows", value="many"), RECORD, "rows"),
    bad("rows that are others", entry("counts", "rows", value=7), "7"),
    bad("an unknown part", entry("part", value="nose"), RECORD, "nose"),
    bad("an unknown method", entry("method", value="magic"), RECORD, "magic"),
    bad("parameters that are a list", entry("parameters", value=[1]), RECORD, "parameters"),
    bad("donors that are text", entry("donors", value="donor"), RECORD, "donors"),
    bad("a tensor that is not there", entry("tensor", value="nose.weight"), "nose.weight"),
    bad("a residual that is text", entry("relative_residual", value={"mean": "x"}), RECORD),
    bad("an error that is text", entry("predicted_error", value={"mean": "x"}), RECORD),
    bad("warnings that are numbers", record(at("warnings", value=[1, 2])), RECORD, "warnings"),
    bad("versions that are a list", record(at("versions", value=[])), RECORD, "versions"),
    good("markup in a warning", record(at("warnings", value=["<script>alert(1)</script> | `x`"]))),
    bad("markup in a name", record(at("merge_method", value="omp|<script>"))),
    bad("arrays that are no archive", write("out", ARRAYS, b"PK\x03\x04 nothing"), ARRAYS),
    bad("arrays that unpack to gigabytes", bomb, ARRAYS),
    bad("an array that lies about its size", lying_header, ARRAYS),
    bad("arrays of another length", arrays(lambda a: {k: v[:9] for k, v in a.items()}), ARRAYS),
    bad(
        "arrays of another type",
        arrays(lambda a: {k: v.astype("f8") for k, v in a.items()}),
        ARRAYS,
    ),
    bad(
        "arrays of two dimensions", arrays(lambda a: {k: v[:, None] for k, v in a.items()}), ARRAYS
    ),
    bad("an array more", arrays(lambda a: a.update(more=np.zeros(3))), ARRAYS, "more"),
    bad(
        "arrays of objects",
        arrays(lambda a: {k: np.array([{}] * len(v), dtype=object) for k, v in a.items()}),
        ARRAYS,
    ),
    bad("half of the arrays' file", cut("out", ARRAYS, 0.5), ARRAYS),
    good("no arrays", remove("out", ARRAYS)),
    bad("a config that is not UTF-8", write("out", CONFIG, b"merge_method: \xff\xfe"), CONFIG),
    good("a config that is no YAML", write("out", CONFIG, "merge_method: [omp")),
    good("a config of a list", write("out", CONFIG, "- omp")),
    bad(
        "a config of another merge",
        write("out", CONFIG, "merge_method: linear\nmodels: [{model: x}]"),
        "linear",
    ),
    good(
        "a config with backticks",
        lambda s: (s.out / CONFIG).write_text(
            (s.out / CONFIG).read_text() + "\n# ````\n# <script>"
        ),
    ),
    good("a base that is gone", lambda s: [f.unlink() for f in (s.out, s.base)[1].glob("*.json")]),
    good("a base cut in half", both(lambda s: s.out, cut("base", "model.safetensors", 0.5))),
    good(
        "a donor with a broken tokenizer",
        both(lambda s: s.out, write("donor", "tokenizer.json", "{}")),
    ),
    bad("half of the weights", cut("out", "model.safetensors", 0.5), "model.safetensors"),
    bad("no weights", remove("out", "*.safetensors"), "model.safetensors"),
    bad("a broken tokenizer", write("out", "tokenizer.json", "{}")),
    bad("an id of 2^31", tokenizer("out", at("model", "vocab", "a", value=1 << 31)), "2147483648"),
    refused(
        "report: no such folder",
        lambda s: s.arguments.update(report=["nowhere"]),
        "nowhere",
        commands=["report"],
    ),
    refused(
        "report: a file",
        lambda s: s.arguments.update(report=[str(s.base / "config.json")]),
        "config.json",
        commands=["report"],
    ),
    refused(
        "report: a model that no merge made",
        lambda s: s.arguments.update(report=[str(s.base)]),
        "{base}",
        commands=["report"],
    ),
    refused(
        "report: an output file in a folder that is not there",
        lambda s: s.arguments.update(report=[str(s.out), "-o", "no/where.html", "--hidden", "0"]),
        "no/where.html",
        commands=["report"],
    ),
]
