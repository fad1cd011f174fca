"""`mergekit-omp grow --restore`: the base's rows of lost tokens, where their pieces stand together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from mergekit.scripts.run_yaml import main as mergekit_yaml
from merges import record, swap, write_config
from small_models import load, matrices
from tiny_models import tiny, tiny_grown
from transformers import AutoTokenizer

from mergekit_omp.cli import main
from mergekit_omp.growth.ngrams import ExactRows, windows
from mergekit_omp.record.sentences import restoring
from mergekit_omp.vocabulary import Vocabulary
from mergekit_omp.vocabulary.lost import (
    DIGITS,
    SAMPLE,
    WORTHWHILE,
    digit_groups,
    lost_share,
    lost_tokens,
)


def run(*words: object) -> Result:
    result = CliRunner().invoke(main, ["grow", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def two(models: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A byte-level base, and what it is with the tokenizer of a SentencePiece donor."""
    base = models("lost", "byte_level", hidden=16, layers=1)
    donor = models("donor", "sentencepiece_bpe", hidden=16, layers=1)
    out = tmp_path_factory.mktemp("swapped") / "out"
    config = write_config(out.with_name("config.yml"), swap(base, donor, "mean"))
    done = CliRunner().invoke(mergekit_yaml, [str(config), str(out)])
    assert done.exit_code == 0, done.output
    # The merge knows how much of a text lost its tokens, and says what to do about it.
    assert f"mergekit-omp grow {out} {out}-restored --restore {base}" in done.output
    return base, out


@pytest.fixture(scope="module")
def restored(two: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("restored") / "out"
    result = run(two[1], out, "--restore", two[0])
    assert result.exit_code == 0, result.output
    return out, result.output


def test_lost_tokens_have_their_rows_again(two: tuple[Path, Path], restored: Any) -> None:
    """Token by token: what the last piece of a lost token gets is the base's row of the token."""
    base, swapped = two
    model, tokenizer = load(restored[0])
    own = Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(base), "base")
    output = Vocabulary.from_tokenizer(tokenizer, "output")
    rows, pieces_rows = matrices(base)[0], matrices(swapped)[0]
    met = 0
    for data, i in own.representatives.items():
        pieces = output.segment([data])[0]
        spells = b"".join(output.content[p] or b"" for p in pieces) == data
        if data in output.representatives or not spells or not 2 <= len(pieces) <= 8:
            continue
        if data.strip().isdigit():
            continue
        ids = torch.tensor([pieces])
        with torch.no_grad():
            known = windows(ids, model.over_encoding.longest)
            inputs = model.over_encoding(pieces_rows[ids], known)[0]
        if own.emitted(np.array([i]))[0]:
            assert torch.equal(inputs[-1], rows[i]), data
            assert torch.equal(inputs[0], pieces_rows[pieces[0]])
            met += 1
    growth = json.loads((restored[0] / "growth.json").read_text())
    assert 100 < met <= growth["restored"]
    assert f"{growth['restored']:,} rows of" in restored[1]
    assert f"{growth['hit']:.1%} of the positions" in restored[1]


def test_the_merge_tells_the_share_that_growing_finds(
    two: tuple[Path, Path], restored: Any
) -> None:
    """From the tokenizers alone; and the report names the command too."""
    base, out = two
    growth = json.loads((restored[0] / "growth.json").read_text())
    # The sample is a text for growing, and the middle of one for the merge: a token more or less.
    assert record(out)["lost"] == pytest.approx(growth["hit"], abs=0.005)
    # Records name local models by the last part of their path.
    command = f"mergekit-omp grow out out-restored --restore {base.name}"
    for flags in ([], ["--markdown"]):
        path = out.with_name(f"report-{len(flags)}")
        result = CliRunner().invoke(main, ["report", str(out), "-o", str(path), *flags])
        assert result.exit_code == 0, result.output
        assert command in path.read_text()


@pytest.mark.parametrize(
    ("base", "output"),
    [("byte_level", "sentencepiece_bpe"), ("sentencepiece_bpe", "byte_level")],
)
def test_the_share_of_a_text_is_that_of_the_table(
    base: str, output: str, real_tokenizer: Any
) -> None:
    """Of a text that is cut as the tokenizers alone say, by the table that growing would write."""
    text = (
        SAMPLE + "In 1987 he counted 2,457 of 12345678 and 12 of 3.14159265358979323846. 5 and 55"
    )
    own, theirs = (Vocabulary.from_tokenizer(real_tokenizer(name), name) for name in (base, output))
    spelled = list(lost_tokens(own, theirs, own.size).values())
    longest = max(map(len, spelled))
    ngrams = torch.tensor([[*pieces[::-1], *[-1] * (longest - len(pieces))] for pieces in spelled])
    ngrams = ngrams[ExactRows.key_of(ngrams).argsort()]
    entry: dict[str, Any] = {"entries": len(ngrams), "rows": 1, "longest": longest}
    if group := digit_groups(own, theirs):
        digits = [i for i, data in enumerate(theirs.content) if data and data.isdigit()]
        entry |= {"digits": digits, "group": group, "digits_back": DIGITS}
    assert bool(group) == (base == "byte_level")
    table = ExactRows({**entry, "share": 1.0, "own": 0.0}, 1)
    table.keys, table.ngrams = ExactRows.key_of(ngrams), ngrams
    table.rows = torch.arange(len(ngrams))
    ids = torch.tensor(theirs.segment([text.encode()]))
    hits = table.find(windows(ids, table.looks_back)) >= 0
    assert lost_share(own, theirs, text) == pytest.approx(float(hits.float().mean()))
    assert lost_share(theirs, theirs, text) == 0


def test_where_little_is_lost_nothing_is_named() -> None:
    said = {"base_model": "base", "lost": WORTHWHILE - 1e-4}
    assert restoring(said, "out") is None
    assert restoring({"base_model": "base"}, "out") is None
    found = restoring({**said, "lost": WORTHWHILE}, "an out/")
    assert found and found[1] == "mergekit-omp grow 'an out/' 'an out-restored' --restore base"


def test_generation_with_rows_given_back(restored: Any) -> None:
    model, tokenizer = load(restored[0])
    ids = torch.tensor([tokenizer("The lighthouse keeper counted 2457 ships").input_ids])
    texts = [
        model.generate(ids, max_new_tokens=12, do_sample=False, use_cache=use, eos_token_id=None)
        for use in (True, False)
    ]
    assert torch.equal(*texts)


def test_a_share_and_tables_beside_it(two: tuple[Path, Path], tmp_path: Path) -> None:
    base, swapped = two
    text = tmp_path / "text.txt"
    text.write_text("lighthouse lighthouse lighthouse")
    words = ("--restore", base, "--share", 0.25, "--text", text)
    tables = ("--over-encoding", "--rows", 9001, "--width", 4)
    result = run(swapped, tmp_path / "out", *words, *tables)
    assert result.exit_code == 0, result.output
    assert "of the positions of the text" in result.output
    model, _ = load(tmp_path / "out")
    exact = model.over_encoding.exact
    ngram = [i for i in exact.ngrams[0].tolist() if i >= 0][::-1]
    row = exact.weight[exact.rows[0]]
    own = matrices(swapped)[0][ngram[-1]]
    with torch.no_grad():
        known = windows(torch.tensor([ngram]), model.over_encoding.longest)
        got = model.over_encoding(matrices(swapped)[0][torch.tensor([ngram])], known)[0, -1]
    assert torch.allclose(got, 0.25 * row + 0.75 * own)
    assert len(model.over_encoding.tables) == 2


def test_groups_of_digits_begin_at_the_left_of_a_number() -> None:
    """Against the groups themselves, cut from the left."""
    digits = list(range(10))
    groups = [g for size in (2, 3) for g in (torch.cartesian_prod(*[torch.arange(10)] * size))]
    last_first = torch.full((len(groups), 3), -1)
    for row, group in zip(last_first, groups, strict=True):
        row[: len(group)] = group.flip(0)
    order = ExactRows.key_of(last_first).argsort()
    entry = {"entries": len(groups), "rows": len(groups), "longest": 3, "share": 1.0, "own": 0.0}
    table = ExactRows({**entry, "digits": digits, "group": 3, "digits_back": 9}, 1)
    table.keys, table.ngrams = ExactRows.key_of(last_first)[order], last_first[order]
    table.rows = torch.arange(len(groups))[order]
    number, word = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], 42
    ids = [word, *number, word, 7, 7]
    found = table.find(windows(torch.tensor([ids]), table.looks_back))[0].tolist()
    runs = {**dict(enumerate(number, 1)), 13: 7, 14: 7}
    for at, row in enumerate(found):
        begin = 13 if at > 12 else 1
        place = at - begin
        group = [runs[i] for i in range(begin + place // 3 * 3, at + 1)] if at in runs else []
        expected = -1
        # Past nine digits the borders are not known.
        if len(group) > 1 and place < 9:
            expected = next(i for i, g in enumerate(groups) if g.tolist() == group)
        assert row == expected, at


@pytest.mark.parametrize(
    "name", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Gemma3ForCausalLM", "GPT2LMHeadModel"]
)
def test_a_row_given_back_is_what_the_model_reads(name: str) -> None:
    """With another token's row for an n-gram, it answers as if that token stood there."""
    exact = {"entries": 1, "rows": 1, "longest": 2, "share": 1.0, "own": 0.0}
    model = tiny_grown(name, tables=(), exact=exact)
    ngram, other = torch.tensor([[9, 8]]), 33
    table = model.over_encoding.exact
    table.ngrams, table.keys = ngram, ExactRows.key_of(ngram)
    table.weight.data = model.get_input_embeddings().weight.detach()[[other]].clone()
    text = torch.tensor([[5, 8, 9, 17, 9, 8, 9]])
    read = torch.tensor([[5, 8, other, 17, 9, 8, other]])
    with torch.no_grad():
        assert torch.equal(model(text).logits, tiny(name)(read).logits)


def test_another_base_is_refused(two: tuple[Path, Path], models: Any, tmp_path: Path) -> None:
    base, swapped = two
    out = tmp_path / "out"
    other = models("other", "byte_level", hidden=16, layers=1, seed=9)
    said = run(swapped, out, "--restore", other)
    assert said.exit_code == 1 and "is not the base" in said.output
    wide = models("wide", "byte_level", hidden=32, layers=1)
    assert "rows of 32 numbers" in run(swapped, out, "--restore", wide).output
    assert "there is nothing to restore" in run(base, out, "--restore", base).output
    assert not out.exists()
