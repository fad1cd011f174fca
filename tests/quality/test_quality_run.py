"""The benchmark from end to end: real merges, cached scores, written reports."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_plan import TINY, tiny_model
from trained_tokenizers import byte_level, wordpiece
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.quality import installed_text, long_training, measuring, scoring_whole
from benchmarks.quality.__main__ import main
from benchmarks.quality.cache import sources
from benchmarks.quality.corpus import KINDS, Document
from benchmarks.quality.hidden import PartsForHidden, merges, row_errors
from benchmarks.quality.methods import chosen
from benchmarks.quality.packages import PACKAGES
from benchmarks.quality.plans import Pair
from benchmarks.quality.published import spelled
from benchmarks.quality.running import run
from benchmarks.quality.scoring import CONTEXT, STRIDE, score
from mergekit_omp.demo.training import token_stream
from mergekit_omp.evaluation import bits_per_byte
from mergekit_omp.vocabulary import Vocabulary, digit_scheme


def test_every_method_is_scored_on_all_text(bench):
    (result,) = bench.results
    assert list(result.methods) == ["zero", "omp 64", "omp 8"]
    assert {document.kind for document in result.documents} == set(KINDS)
    for measured in (result.own, *result.methods.values()):
        scored = [document.bytes for document in measured.documents]
        assert scored == [len(document.text.encode()) for document in result.documents]
        assert all(0 < result.bits_per_byte(measured, [kind]) < 40 for kind in KINDS)
    # Zero rows leave new tokens in text: some of it is spelled in them.
    assert sum(document.new_tokens for document in result.methods["zero"].documents) > 0
    assert result.methods["zero"].errors["head"].squared_error == pytest.approx(1)
    assert result.methods["omp 8"].tensors[0]["parameters"]["k"] == 8


def test_writes_a_report_data_and_plots(bench):
    written = (bench.out / "quality.md").read_text()
    (result,) = bench.results
    for label, compared in result.compared.items():
        assert f"| {label} |" in written
        assert f"{compared.bits_per_byte.value:.3f}" in written
    (kept,) = json.loads((bench.out / "quality.json").read_text())
    assert kept["pair"] == {"base": "S", "donor": "B"}
    bits = sum(document["bits"] for document in kept["methods"]["omp 8"]["documents"])
    size = sum(document["bytes"] for document in kept["own"]["documents"])
    assert kept["methods"]["omp 8"]["compared"]["bits_per_byte"]["value"] == pytest.approx(
        bits / size
    )
    for plot in ("recovery.png", "k.png"):
        assert (bench.out / plot).read_bytes().startswith(b"\x89PNG")


def test_nothing_is_made_twice(bench, tmp_path, monkeypatch):
    def refused(*arguments: object) -> None:
        raise AssertionError("a kept score was made again")

    monkeypatch.setattr(measuring, "merge", refused)
    monkeypatch.setattr(measuring, "score", refused)
    made = {path: path.stat().st_mtime_ns for path in bench.cache.rglob("*") if path.is_file()}
    again = run(
        TINY,
        TINY.pairs,
        chosen(["omp 8"]),
        corpus=bench.corpus,
        cache_dir=bench.cache,
        out=tmp_path,
    )
    assert again == bench.results
    assert (tmp_path / "quality.md").read_text() == (bench.out / "quality.md").read_text()
    assert made == {p: p.stat().st_mtime_ns for p in bench.cache.rglob("*") if p.is_file()}


def test_code_that_decides_rows_decides_what_is_made_anew(tmp_path):
    deep = tmp_path / "package" / "deep"
    deep.mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").write_text("")
    (deep / "rows.py").write_text("SHARE = 1")
    package = ModuleType("package")
    package.__file__ = str(tmp_path / "package" / "__init__.py")
    before = sources([package])
    assert sources([package]) == before
    (deep / "rows.py").write_text("SHARE = 2")
    assert sources([package]) != before


def test_scores_are_those_of_bits_per_byte(bench):
    path = bench.models["S"]
    texts = [document.text for document in bench.results[0].documents]
    ours = score(path, texts)
    theirs = bits_per_byte(
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        AutoTokenizer.from_pretrained(path),
        texts,
        context=CONTEXT,
        stride=STRIDE,
    )
    np.testing.assert_allclose(
        [document.bits for document in ours],
        [document.bits for document in theirs.documents],
        rtol=1e-5,
    )
    assert [d.tokens for d in ours] == [d.tokens for d in theirs.documents]


def test_models_differ_as_their_specs_say(bench):
    tokenizers = {n: AutoTokenizer.from_pretrained(path) for n, path in bench.models.items()}
    assert tokenizers["B"].tokenize("in 1234") == ["in", "Ġ", "1", "2", "3", "4"]
    schemes = {digit_scheme(Vocabulary.from_tokenizer(t, n)).name for n, t in tokenizers.items()}
    assert schemes == {"SINGLE"}
    tied = AutoModelForCausalLM.from_pretrained(bench.models["B"])
    assert tied.get_input_embeddings().weight is tied.get_output_embeddings().weight


@pytest.mark.parametrize("name", ["S", "B"])
def test_a_hidden_token_is_spelled_by_its_parts(bench, name):
    tokenizer = AutoTokenizer.from_pretrained(bench.models[name])
    whole = Vocabulary.from_tokenizer(tokenizer, name)
    parts = merges(tokenizer)
    hidden = set(sorted(parts)[::3])
    pieces = [whole.content[i] for i in sorted(parts) if whole.content[i]]
    before = whole.segment(pieces)
    after = PartsForHidden(whole.segmenter, parts, hidden).segment(pieces)
    assert any(hidden & set(ids) for ids in before)
    assert not any(hidden & set(ids) for ids in after)
    for cut in (before, after):
        assert [b"".join(whole.content[i] for i in ids) for ids in cut] == pieces


def test_row_errors_of_known_rows():
    true = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    found = row_errors(2 * true, true, torch.tensor([1.0, 3.0]))
    assert (found.cosine, found.norm_ratio) == pytest.approx((1, 2))
    assert found.squared_error == pytest.approx(1)
    turned = row_errors(torch.tensor([[-4.0, 3.0], [2.0, 0.0]]), true, torch.ones(2))
    assert (turned.cosine, turned.norm_ratio) == pytest.approx((0, 1))
    assert turned.squared_error == pytest.approx(2)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--pairs", "X:Q"], "'X:Q' is no pair: write BASE:DONOR with a base of SmolLM2, X"),
        (["--methods", "omg"], "there is no method 'omg': write some of zero, mean"),
        (["--corpus", "nowhere"], "nowhere holds no .txt file"),
    ],
)
def test_bad_options_are_named(tmp_path, monkeypatch, option, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["quality", "--quick", "--out", "out", *option])
    with pytest.raises(SystemExit) as refusal:
        main()
    assert str(refusal.value).startswith("Error: ")
    assert said in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_training_that_was_stopped_ends_where_it_would_have(tmp_path):
    spec = tiny_model("S", "byte-level, digits in threes", tied=False)
    texts = [f"The story of number {i} begins with a walk of {i * i} steps." for i in range(2000)]
    tokens = 20 * long_training.BATCH * long_training.CONTEXT
    make_long_model = long_training.make_long_model
    straight = make_long_model(spec, texts, tokens, tmp_path / "straight")
    # A shorter model first, from whose trunk the longer one goes on.
    make_long_model(spec, texts, tokens // 2, tmp_path / "resumed")
    resumed = make_long_model(spec, texts, tokens, tmp_path / "resumed")
    assert straight.name == resumed.name
    first, second = (load_file(path / "model.safetensors") for path in (straight, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = load_file(next((tmp_path / "resumed/models").glob(f"*-{tokens // 2}/*.safetensors")))
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_long_models_read_more_text_and_are_not_made_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(installed_text, "PACKAGES", ("networkx",))
    texts = TINY.read(None)
    spec = TINY.models[0]
    asked = {spec.name: 2 * long_training.BATCH * long_training.CONTEXT}
    made = long_training.make_long_models([spec], texts, 1200, asked, tmp_path)
    (more,) = (tmp_path / "texts").glob("*.json")
    assert "graph" in " ".join(json.loads(more.read_text())["prose"])
    (stream,) = (tmp_path / "runs").glob("*/stream.pt")
    (path,) = made.values()
    own = token_stream(AutoTokenizer.from_pretrained(path), texts.mixed(spec.shares))
    assert len(torch.load(stream)) > len(own)
    monkeypatch.setattr(long_training, "in_processes", None)
    assert long_training.make_long_models([spec], texts, 1200, asked, tmp_path) == made


def test_whole_documents_are_scored_as_in_float32(bench):
    """Up to what bfloat16 rounds, where a document fits into the small models' windows too."""
    texts = ["The story begins.", "def f(x):\n    return x + 12", "3 + 4 = 7"]
    path = bench.models["B"]
    new = torch.arange(len(AutoTokenizer.from_pretrained(path))).numpy() % 3 == 0
    for ours, exact in zip(
        scoring_whole.score(path, texts, new), score(path, texts, new), strict=True
    ):
        assert (ours.bytes, ours.tokens, ours.new_tokens) == (
            exact.bytes,
            exact.tokens,
            exact.new_tokens,
        )
        assert 0 < ours.new_tokens < ours.tokens
        assert ours.bits == pytest.approx(exact.bits, rel=5e-3)
        assert ours.new_bits == pytest.approx(exact.new_bits, rel=1e-2)


def test_rows_without_a_model_are_a_donor(bench, tmp_path, monkeypatch):
    """As those of a package: the merge, the scores and the tables."""
    rows = torch.randn(700, 24, generator=torch.Generator().manual_seed(0))
    monkeypatch.setitem(PACKAGES, "Rows", ("rows==1", lambda folder: (byte_level(700), rows)))
    (bench.cache / "packages" / "rows==1").mkdir(parents=True)
    (result,) = run(
        TINY,
        (Pair("S", "Rows"),),
        chosen(["kriging"]),
        corpus=bench.corpus,
        cache_dir=bench.cache,
        out=tmp_path,
        every=8,
    )
    assert list(result.methods) == ["zero", "kriging", "omp 64"]
    assert "S <- Rows" in (tmp_path / "quality.md").read_text()


def test_text_is_what_the_tokenizer_keeps_of_it(tmp_path):
    documents = [Document("prose", "Two  Rivers\nmeet (here)."), Document("code", "x = 1")]
    byte_level(700).save_pretrained(tmp_path / "bytes")
    assert spelled(documents, tmp_path / "bytes") == documents
    wordpiece(700).save_pretrained(tmp_path / "words")
    kept = spelled(documents, tmp_path / "words")
    assert kept[0].text.startswith("two rivers meet (")
    assert spelled(kept, tmp_path / "words") == kept
