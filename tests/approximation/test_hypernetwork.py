"""Hypernetworks beside the original: pieces, rows, and what is said of files that are not right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_hypernetworks import (
    NAMES,
    ORACLES,
    changed,
    expected,
    published,
    source_rows,
)
from torch import Tensor

from mergekit_omp.approximation import CodingInputs, MissingRows, Part, Texts
from mergekit_omp.approximation.chunks import working_memory
from mergekit_omp.approximation.hypernetwork.opened import BaseFacts, OpenedHypernetwork
from mergekit_omp.approximation.norms import match_norms
from mergekit_omp.approximation.zett import Zett
from mergekit_omp.vocabulary.content import ALPHABET

TOKENS = json.loads((ORACLES / "surface_forms.json").read_text())
TARGET = [token.translate(ALPHABET).encode("latin-1") for token in TOKENS["tokens"]]
LANGUAGES = [
    ("untied", None),
    ("tied_language", "en"),
    ("tied_language", "de"),
    ("single_head", None),
]
MATRICES = {Part.INPUT: source_rows()["embed"], Part.HEAD: source_rows()["head"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hypernetworks")


def matrices(name: str) -> dict[Part, Tensor]:
    return {Part.INPUT: MATRICES[Part.INPUT]} if name == "tied_language" else MATRICES


def test_every_token_is_cut_as_the_original_cuts_it(folder: Path) -> None:
    opened = OpenedHypernetwork.open(str(published(folder, "untied")), None)
    found = opened.segment(TARGET)
    padded = [pieces + [2] * (TOKENS["maxlen"] - len(pieces)) for pieces in found.pieces]
    assert len(padded) == 760
    assert padded == TOKENS["matrix"]
    assert len(found.truncated) == TOKENS["truncated"]
    assert found.unspellable == []


@pytest.mark.parametrize(("name", "language"), LANGUAGES)
def test_rows_are_those_of_the_original(name: str, language: str | None, folder: Path) -> None:
    opened = OpenedHypernetwork.open(str(published(folder, name)), language)
    found = opened.predict(opened.segment(TARGET), matrices(name))
    assert found.pop("places").tolist() == list(range(760))
    suffix = f".{language}" if language else ""
    wanted = {
        key.removesuffix(suffix): rows for key, rows in expected(name).items() if suffix in key
    }
    wanted = {"head_bias" if key == "bias" else key: rows for key, rows in wanted.items()}
    assert found.keys() == wanted.keys()
    for key, rows in wanted.items():
        torch.testing.assert_close(found[key].squeeze(1), rows, rtol=1e-5, atol=1e-5)


def test_little_memory_changes_nothing(folder: Path) -> None:
    opened = OpenedHypernetwork.open(str(published(folder, "untied")), None)
    segments = opened.segment(TARGET)
    whole = opened.predict(segments, MATRICES)
    with working_memory(30_000):
        in_pieces = opened.predict(segments, MATRICES)
    for name, rows in in_pieces.items():
        torch.testing.assert_close(rows, whole[name], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("name", ["untied", "tied_language"])
def test_it_is_a_method_of_the_library(name: str, part: Part, folder: Path) -> None:
    language = "de" if name == "tied_language" else None
    method = Zett(hypernetwork=str(published(folder, name)), language=language)
    problem = _problem(name, part, [TARGET[5], None, TARGET[300], b""])
    rows = method.rows(problem)
    key = {Part.INPUT: "input", Part.HEAD: "head", Part.HEAD_BIAS: "bias"}[part]
    key = "input" if name == "tied_language" and part == Part.HEAD else key
    wanted = expected(name)[f"{key}.de" if language else key].reshape(760, -1)[[5, 300]]
    torch.testing.assert_close(rows[[0, 2]], wanted, rtol=1e-5, atol=1e-5)
    if part != Part.HEAD_BIAS:
        rescaled = method.model_copy(update={"rescale_norms": True}).rows(problem)
        torch.testing.assert_close(rescaled, match_norms(rows, problem.base))
    # A control token and one without bytes have no pieces.
    mean = problem.base.double().mean(0).float().expand(2, -1)
    torch.testing.assert_close(rows[[1, 3]], mean)


def _problem(name: str, part: Part, missing: list[bytes | None]) -> MissingRows:
    own = matrices(name)
    base = own.get(part, own[Part.INPUT])
    return MissingRows(
        part=part,
        base=base[:, :1] if part == Part.HEAD_BIAS else base,
        inputs=CodingInputs(
            missing=len(missing),
            anchor_rows=torch.arange(0),
            texts=Texts(missing, [], [], lambda _: [], lambda _: []),
        ),
        matrices=own,
    )


def test_the_library_says_what_it_lacks(folder: Path) -> None:
    path = str(published(folder, "untied"))
    problem = _problem("untied", Part.INPUT, [b"a"])
    with pytest.raises(ValueError, match="zett needs a `hypernetwork`"):
        Zett().rows(problem)
    with pytest.raises(ValueError, match="is for models whose head is a matrix of its own"):
        Zett(hypernetwork=path).rows(_problem("tied_language", Part.INPUT, [b"a"]))
    with pytest.raises(ValueError, match="give the problem its `matrices`"):
        Zett(hypernetwork=path).rows(MissingRows(Part.INPUT, problem.base, problem.inputs))


def test_a_base_row_that_is_not_finite_gives_the_mean_row(folder: Path) -> None:
    opened = OpenedHypernetwork.open(str(published(folder, "untied")), None)
    segments = opened.segment(TARGET)
    spoilt = segments.pieces[700][0]
    entry = MATRICES[Part.INPUT].clone()
    entry[spoilt] = torch.nan
    found = opened.predict(segments, MATRICES | {Part.INPUT: entry})
    without = [i for i, pieces in enumerate(segments.pieces) if spoilt not in pieces]
    assert found["places"].tolist() == without
    assert len(without) < 760
    torch.testing.assert_close(found["input"], expected("untied")["input"][without])


def test_tensors_that_are_not_used_are_not_read(folder: Path, tmp_path: Path) -> None:
    def spoil(weights: dict[str, Tensor]) -> None:
        del weights["model.embeddings.word_embeddings.weight"]
        weights["model.pooler.dense.weight"] = torch.full((3,), torch.nan)
        weights["lm_head.counts"] = torch.ones(2, dtype=torch.int64)
        # Positions that no token reaches.
        weights["model.embeddings.position_embeddings.weight"][7:] = torch.nan

    path = changed(published(folder, "untied"), tmp_path / "changed", weights=spoil)
    opened = OpenedHypernetwork.open(str(path), None)
    opened.check_weights()
    found = opened.predict(opened.segment(TARGET), MATRICES)
    torch.testing.assert_close(found["head"], expected("untied")["head"], rtol=1e-5, atol=1e-5)


def test_weights_in_several_files(folder: Path, tmp_path: Path) -> None:
    path = changed(published(folder, "untied"), tmp_path / "sharded")
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = sorted(weights)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: weights[name] for name in names if files[name] == file}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    opened = OpenedHypernetwork.open(str(path), None)
    found = opened.predict(opened.segment(TARGET), MATRICES)
    torch.testing.assert_close(found["input"], expected("untied")["input"], rtol=1e-5, atol=1e-5)
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"expected a file model-00002-of-00002\.safetensors"):
        OpenedHypernetwork.open(str(path), None)


def test_half_precision_weights(folder: Path, tmp_path: Path) -> None:
    def halve(weights: dict[str, Tensor]) -> None:
        weights.update({name: tensor.bfloat16() for name, tensor in weights.items()})

    path = changed(published(folder, "untied"), tmp_path / "half", weights=halve)
    opened = OpenedHypernetwork.open(str(path), None)
    found = opened.predict(opened.segment(TARGET), MATRICES)["input"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected("untied")["input"], rtol=0.1, atol=0.02)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("untied", {"model_type": "roberta"}, "model_type must be 'zett_hypernetwork'.*'roberta'"),
        ("untied", {"hn_model_type": "t5"}, "hn_model_type must be 'roberta'.*found 't5'"),
        ("untied", {"hn_embed_target_priors": True}, "hn_embed_target_priors must be false.*True"),
        ("untied", {"hn_add_inter_token_attention": True}, "hn_add_inter_token_attention must be"),
        ("untied", {"hn_concat_last_hidden_state": True}, "hn_concat_last_hidden_state must be"),
        ("untied", {"hn_language_adapter_bottleneck_dim": 8}, "bottleneck_dim must be .* found 8"),
        (
            "untied",
            {"hn_embed_using_source_embeddings": None},
            "hn_embed_using_source_embeddings must be true; found no such key",
        ),
        ("untied", {"original_vocab_size": None}, "original_vocab_size must be a whole number"),
        ("untied", {"hn_hidden_size": "wide"}, "hn_hidden_size must be a whole number.*'wide'"),
        ("untied", {"hn_n_layers": 0}, "hn_n_layers must be .* at least 1; found 0"),
        ("untied", {"hn_n_layers": 4}, "expected a tensor model.encoder.layer.3.*found none"),
        ("untied", {"hn_num_attention_heads": 5}, "hn_num_attention_heads must be a divisor.* 5"),
        ("untied", {"hn_single_head": "yes"}, "hn_single_head must be true or false; found 'yes'"),
        ("untied", {"hn_single_head": True}, r"output_projection.1.weight must be of shape \[64"),
        ("untied", {"hn_intermediate_size": 63}, r"dense1.weight must be of shape \[63, 32\]"),
        ("untied", {"hn_n_extra_tokens": 8}, r"fallback_embeddings.weight must be .*\[8, 64\]"),
        ("untied", {"n_embd": 16}, r"must be of shape .*; found \["),
        ("tied_language", {"langs": None}, "langs must be a list of languages"),
        ("tied_language", {"langs": ["en"]}, r"lang_embeddings.weight must be of shape \[1, 48\]"),
        ("single_head", {"hn_predict_bias": None}, "expected a tensor bias_projection.weight"),
        ("single_head", {"hn_rescale_embeddings": True}, "expected a tensor in_scaler.w"),
        ("single_head", {"hn_surface_maxlen": None}, None),
        ("single_head", {"hn_surface_maxlen": 17}, r"position_embeddings.*or more rows"),
    ],
)
def test_a_config_that_is_not_right(
    name: str, keys: dict[str, Any], message: str | None, folder: Path, tmp_path: Path
) -> None:
    path = changed(published(folder, name), tmp_path / "changed", config=keys)
    language = "en" if name == "tied_language" else None
    if message is None:
        assert OpenedHypernetwork.open(str(path), language).config.longest == 16
        return
    with pytest.raises(ValueError, match=message) as error:
        OpenedHypernetwork.open(str(path), language)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "language", "message"),
    [
        ("tied_language", None, "needs a `language`: write one of en, de"),
        ("tied_language", "fr", "has no language 'fr': write one of en, de"),
        ("untied", "en", "has no languages: leave `language: en` out"),
    ],
)
def test_languages(name: str, language: str | None, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        OpenedHypernetwork.open(str(published(folder, name)), language)


def test_a_language_that_yaml_took_for_something_else() -> None:
    with pytest.raises(ValueError, match="False is not text: write it in quotes"):
        Zett(hypernetwork="a/b", language=False)


def _write(file: str, content: str | bytes) -> Callable[[Path], Any]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda path: (path / file).write_bytes(data)


def _only_pickled(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "config.json").unlink(), "expected a file config.json; found"),
        (lambda path: (path / "tokenizer.json").unlink(), "expected a file tokenizer.json; found"),
        (
            _only_pickled,
            "expected a file model.safetensors; found .*pytorch_model.bin.*safetensors",
        ),
        (_write("config.json", "{"), "config.json of .*: expected JSON; found"),
        (_write("config.json", "[1]"), "config.json of .*: expected an object; found a list"),
        (_write("config.json", b"\xff\xfe\x00"), "config.json of .* cannot be read"),
        (_write("tokenizer.json", "no JSON"), "tokenizer.json of .*: expected a tokenizer in JSON"),
        (
            _write("tokenizer.json", '{"model": 1}'),
            "tokenizer.json of .*: expected a fast tokenizer",
        ),
        (_write("model.safetensors", b"\x10" * 50), "model.safetensors of .* cannot be read"),
        (_write("model.safetensors", b""), "model.safetensors of .* cannot be read"),
    ],
)
def test_files_that_are_not_right(
    spoil: Callable[[Path], Any], message: str, folder: Path, tmp_path: Path
) -> None:
    path = changed(published(folder, "untied"), tmp_path / "changed")
    spoil(path)
    with pytest.raises(ValueError, match=message):
        OpenedHypernetwork.open(str(path), None)


def _as_integers(weights: dict[str, Tensor]) -> None:
    weights["bias_projection.weight"] = torch.ones((1, 32), dtype=torch.int8)


def _with(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], Any]:
    return lambda weights: weights.update({name: change(weights[name]).contiguous()})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda w: w.pop("out_scaler.b"), r"expected a tensor out_scaler.b of shape \[1, 32\]"),
        (_with("input_projection.0.weight", lambda t: t.T), r"\[32, 64\]; found \[64, 32\]"),
        (_as_integers, "bias_projection.weight must hold floating-point numbers .* found I8"),
        (
            _with("scaler.w", lambda t: t / torch.tensor([0.0] + [1.0] * 31)),
            "expected finite numbers in scaler.w; found 1 of 32 that are not",
        ),
        (
            _with("model.encoder.layer.1.output.dense.weight", lambda t: t * torch.nan),
            "expected finite numbers in model.encoder.layer.1.output.dense.weight",
        ),
    ],
)
def test_weights_that_are_not_right(
    weights: Callable[[dict[str, Tensor]], Any], message: str, folder: Path, tmp_path: Path
) -> None:
    path = changed(published(folder, "untied"), tmp_path / "changed", weights=weights)
    with pytest.raises(ValueError, match=message) as error:
        OpenedHypernetwork.open(str(path), None).check_weights()
    assert str(error.value).startswith(f"model.safetensors of the hypernetwork {path}")


def _facts(**changes: Any) -> BaseFacts:
    tokenizer = json.loads((ORACLES / "base_tokenizer" / "tokenizer.json").read_text())
    strings = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    content: list[bytes | None] = [
        bytes([int(s[3:5], 16)]) if s.startswith("<0x") else s.replace("▁", " ").encode()
        for s in strings
    ]
    content[:3] = [None] * 3
    shapes = {Part.INPUT: (700, 32), Part.HEAD: (700, 32)}
    facts = {"name": "the/base", "strings": strings, "content": content, "shapes": shapes}
    return BaseFacts(**{**facts, **changes})


def test_which_bases_it_is_for(folder: Path) -> None:
    opened = OpenedHypernetwork.open(str(published(folder, "untied")), None)
    facts = _facts()
    opened.check_base(facts)
    # A fine-tune with tokens of its own, whose rows are padded.
    more = {"strings": [*facts.strings, "<new>"], "content": [*facts.content, b"<new>"]}
    opened.check_base(_facts(**more, shapes=dict.fromkeys(facts.shapes, (768, 32))))
    with pytest.raises(ValueError, match="models whose head is a matrix of its own; the/base has"):
        opened.check_base(_facts(shapes={Part.INPUT: (700, 32)}))
    with pytest.raises(
        ValueError, match=r"n_embd must be the length of a row of .*\(48\); found 32"
    ):
        opened.check_base(_facts(shapes=dict.fromkeys(facts.shapes, (700, 48))))
    with pytest.raises(
        ValueError, match=r"original_vocab_size must be at most .*\(699\); found 700"
    ):
        opened.check_base(_facts(shapes=dict.fromkeys(facts.shapes, (699, 32))))
    single = OpenedHypernetwork.open(str(published(folder, "tied_language")), "en")
    with pytest.raises(ValueError, match="serves as the head too; the/base has a head of its own"):
        single.check_base(facts)


def test_a_vocabulary_that_is_not_the_bases_names_the_first_token_that_differs(
    folder: Path,
) -> None:
    opened = OpenedHypernetwork.open(str(published(folder, "untied")), None)
    facts = _facts()
    strings, content = list(facts.strings), list(facts.content)
    for i in (650, 400):
        strings[i], content[i] = f"other{i}", f"other{i}".encode()
    with pytest.raises(ValueError, match="expected the base's token 'other400' at id 400; found"):
        opened.check_base(_facts(strings=strings, content=content))


def _tokenizer(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    found = json.loads((path / "tokenizer.json").read_text())
    change(found["model"])
    (path / "tokenizer.json").write_text(json.dumps(found))


def test_a_vocabulary_without_some_byte(folder: Path, tmp_path: Path) -> None:
    path = changed(published(folder, "untied"), tmp_path / "changed")
    _tokenizer(path, lambda model: model["vocab"].pop("ÿ"))
    with pytest.raises(ValueError, match=r"each of the 256 bytes.*none for 1 of them \(0xFF\)"):
        OpenedHypernetwork.open(str(path), None)


def test_pieces_past_the_networks_rows_cannot_be_spelled(folder: Path, tmp_path: Path) -> None:
    # Rows for ids 700 to 704 alone: 705 to 708 have none.
    def cut(weights: dict[str, Tensor]) -> None:
        weights["fallback_embeddings.weight"] = weights["fallback_embeddings.weight"][:5].clone()

    path = changed(
        published(folder, "untied"), tmp_path / "cut", config={"hn_n_extra_tokens": 5}, weights=cut
    )
    opened = OpenedHypernetwork.open(str(path), None)
    tokens = [TARGET[300], None, b"\xe2\x80", b"\xff", b""]
    found = opened.segment(tokens)
    assert found.unspellable == [2, 4]
    assert [bool(pieces) for pieces in found.pieces] == [True, False, False, True, False]
    predicted = opened.predict(found, MATRICES)
    assert predicted["places"].tolist() == [0, 3]
    torch.testing.assert_close(
        predicted["input"][0], expected("untied")["input"][300], rtol=1e-5, atol=1e-5
    )
    whole = OpenedHypernetwork.open(str(published(folder, "untied")), None)
    assert whole.segment(tokens).pieces[2] == [705]
    assert whole.segment(tokens).unspellable == [4]


def test_dropout_of_training_is_off(folder: Path, tmp_path: Path) -> None:
    path = changed(published(folder, "untied"), tmp_path / "dropout")
    _tokenizer(path, lambda model: model.update(dropout=0.9))
    opened = OpenedHypernetwork.open(str(path), None)
    padded = [p + [2] * (7 - len(p)) for p in opened.segment(TARGET).pieces]
    assert padded == TOKENS["matrix"]


@pytest.fixture
def hub(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hypernetwork that was downloaded, and no way to the hub; its commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    held = tmp_path / "hub" / "models--owner--hypernetwork"
    shutil.copytree(published(folder, "untied"), held / "snapshots" / commit)
    (held / "refs").mkdir()
    for name in ("main", "v1"):
        (held / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return commit


@pytest.mark.parametrize("revision", ["", "@v1", "@0123456789abcdef0123456789abcdef01234567"])
@pytest.mark.parametrize("headers_only", [False, True])
def test_a_hypernetwork_of_the_hub(hub: str, revision: str, headers_only: bool) -> None:
    source = f"owner/hypernetwork{revision}"
    opened = OpenedHypernetwork.open(source, None, headers_only=headers_only)
    assert opened.place.commit() == hub
    if not headers_only:
        found = opened.predict(opened.segment(TARGET), MATRICES)["input"]
        torch.testing.assert_close(found, expected("untied")["input"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "owner/other",
            "owner/other: it is no folder, and cannot be had from the Hugging Face hub",
        ),
        ("owner/hypernetwork@v2", "cannot be had from the Hugging Face hub"),
        ("./missing", "./missing: there is no such folder"),
        ("/some/where/else", "there is no such folder"),
        ("hypernetwork", "there is no such folder, and it is no id of the Hugging Face hub"),
        ("own er/x", "cannot be had from the Hugging Face hub"),
    ],
)
def test_hypernetworks_that_cannot_be_had(hub: str, source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenedHypernetwork.open(source, None)


def test_weights_that_were_not_downloaded(hub: str, tmp_path: Path) -> None:
    (tmp_path / "hub/models--owner--hypernetwork/snapshots" / hub / "model.safetensors").unlink()
    for headers_only in (False, True):
        with pytest.raises(ValueError, match="cannot be had from the Hugging Face hub"):
            OpenedHypernetwork.open("owner/hypernetwork", None, headers_only=headers_only)


@pytest.mark.parametrize("name", NAMES)
def test_its_cost_grows_with_what_it_reads(name: str, folder: Path) -> None:
    opened = OpenedHypernetwork.open(
        str(published(folder, name)), "en" if name == "tied_language" else None
    )
    short, long = opened.segment([b"a"]), opened.segment([b"a b c d"])
    assert 0 < opened.cost(short).multiply_adds < opened.cost(long).multiply_adds
    assert opened.cost(short).bytes > 4 * opened.weights.size
