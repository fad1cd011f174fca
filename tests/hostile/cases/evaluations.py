"""What `evaluate` reads: texts, models, records."""

from __future__ import annotations

from hostile.cases import tokenizers, weights
from hostile.cases.reports import RECORD
from hostile.cases.tokenizers import at
from hostile.scene import (
    Case,
    Edit,
    Scene,
    both,
    in_json,
    refused,
    right,
    tokenizer,
    write,
)
from hostile.scene import weights as tensors

TEXT = (
    "The lighthouse keeper climbed the stairs every evening, wrote down the weather and waited.\n"
)


def on(text: str | bytes, name: str = "text.txt", model: str = "base", *options: str) -> Edit:
    """Evaluate one of the scene's models on a file."""

    def edit(scene: Scene) -> None:
        data = text.encode() if isinstance(text, str) else text
        (scene.folder / name).write_bytes(data)
        scene.arguments["evaluate"] = [
            *(str(getattr(scene, model)), "--text", name, "--quiet", "--context", "32"),
            *options,
        ]

    return edit


def bad(name: str, edit: Edit, *says: str) -> Case:
    return refused(f"evaluate: {name}", edit, *says, commands=["evaluate"])


def good(name: str, edit: Edit) -> Case:
    return right(f"evaluate: {name}", edit, ["evaluate"])


def model(edit: Edit, where: str = "base") -> Edit:
    return both(edit, on(TEXT, model=where))


CASES: list[Case] = [
    good("a text", on(TEXT)),
    good("a merged model", model(lambda scene: None, "out")),
    good("U+2028 in a line of JSON", on('{"text": "one\u2028two \u0085 three"}\n', "text.jsonl")),
    good("a carriage return in JSON", on('{"text": "one"}\r\n{"text": "two"}\r\n', "text.jsonl")),
    good("a text of one character", on("a")),
    good("a text with a null byte", on("a text\x00" + "with a null byte " * 9)),
    bad("a text in UTF-16", on("a text in UTF-16".encode("utf-16-le")), "text.txt", "UTF-16"),
    good(
        "a text with escapes of a terminal",
        on("\x1b[2J\x1b]0;title\x07 hello " * 9, "t.txt", "base", "--json"),
    ),
    bad(
        "half of a surrogate pair",
        on('{"text": "one \\ud800 two"}\n', "text.jsonl"),
        "text.jsonl, line 1",
        "surrogate",
    ),
    bad(
        "a line that is no JSON", on('{"text": "a"}\n{"text"\n', "text.jsonl"), "text.jsonl, line 2"
    ),
    bad("a line that is a number", on("5\n", "text.jsonl"), "text.jsonl, line 1"),
    bad("a line without a text", on('{"txt": "a"}\n', "text.jsonl"), "text.jsonl, line 1"),
    bad("a line whose text is null", on('{"text": null}\n', "text.jsonl"), "text.jsonl, line 1"),
    bad("a nest of lists", on("[" * 100_000 + "\n", "text.jsonl"), "text.jsonl, line 1"),
    bad(
        "a number of 5000 digits",
        on('{"text": ' + "9" * 5000 + "}\n", "text.jsonl"),
        "text.jsonl, line 1",
    ),
    bad("an empty text", on(""), "no text"),
    bad("blanks", on(" \n\n\t"), "no text"),
    bad("bytes that are not UTF-8", on(b"\xff\xfe\x00a"), "not UTF-8"),
    bad(
        "a folder of no model",
        lambda s: (
            (s.folder / "e").mkdir()
            or s.arguments.update(evaluate=["e", "--text", str(s.base / "config.json")])
        ),
        "e has no config.json",
    ),
    bad(
        "a model that is misspelt",
        lambda s: (
            s.base,
            s.arguments.update(evaluate=["./bsae", "--text", str(s.base / "config.json")]),
        ),
        "./bsae",
        "./base",
    ),
    bad(
        "a context of more than it reads",
        both(on(TEXT), lambda s: s.arguments["evaluate"].__setitem__(-1, "100000")),
        "100000",
    ),
    bad("a device that is not there", on(TEXT, "t.txt", "base", "--device", "cuda"), "cuda"),
    bad("a device that is none", on(TEXT, "t.txt", "base", "--device", "toaster"), "toaster"),
    *(
        bad(f"{name}", model(damage("base")), said, "base")
        for name, (damage, said) in weights.DAMAGE.items()
    ),
    *(
        bad(f"tokenizer.json with {name}", model(tokenizer("base", change)), "base")
        for name, change in tokenizers.BROKEN.items()
    ),
    bad(
        "a tensor that is missing",
        model(tensors("base", lambda t: t.pop("model.norm.weight"))),
        "base",
        "model.norm.weight",
    ),
    bad(
        "a tensor of another shape",
        model(
            tensors("base", lambda t: t.update({"model.norm.weight": t["model.norm.weight"][:3]}))
        ),
        "base",
    ),
    bad(
        "weights that are not finite",
        model(tensors("base", lambda t: t["model.norm.weight"].fill_(float("nan")))),
        "base",
    ),
    bad(
        "more rows than weights",
        model(in_json("base", "config.json", at("vocab_size", value=1 << 23))),
        "base",
    ),
    bad(
        "ids past the rows",
        model(
            tensors(
                "base",
                lambda t: t.update(
                    {k: t[k][:100] for k in ("lm_head.weight", "model.embed_tokens.weight")}
                ),
            )
        ),
        "base",
    ),
    bad(
        "ids from 0 to 10^11",
        model(
            in_json("out", RECORD, at("models", 0, "approximated_ids", value="0-99999999999")),
            "out",
        ),
        RECORD,
        "0-99999999999",
    ),
    bad(
        "ids that are words",
        model(in_json("out", RECORD, at("models", 0, "approximated_ids", value="many")), "out"),
        RECORD,
        "many",
    ),
    bad("a record that is a list", model(write("out", RECORD, "[]"), "out"), RECORD),
    bad(
        "a record without models",
        model(in_json("out", RECORD, lambda r: r.pop("models") and None), "out"),
        RECORD,
    ),
]
