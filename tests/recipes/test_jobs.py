"""The pages of `docs/jobs/`: their configs merged and their Python run, on small models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from merges import merge_here, swap
from recipes.cookbook import SMALL, with_small
from safetensors.torch import load_file
from small_models import matrices
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_omp.cli import main
from mergekit_omp.record.row_facts import Origin

ROOT = Path(__file__).parents[2]
JOBS = ROOT / "docs" / "jobs"
NOTEBOOK = ROOT / "examples" / "swap-and-heal.ipynb"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = "\n\n".join(
    f"The value of object number {i} is {i * 7}; if it is not, then return {i}." for i in range(12)
)

Workshop = Callable[..., dict[str, Any]]


def fences(page: str, language: str) -> list[str]:
    found = _FENCE.findall((JOBS / f"{page}.md").read_text(encoding="utf-8"))
    return [text for named, text in found if named == language]


@pytest.fixture
def work(small: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """`work(page, out)`: merge the page's config into `out`, run its Python; the names it leaves."""
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text(TEXT, encoding="utf-8")

    def run(page: str, out: str | None, only: slice = slice(None), **given: Any) -> dict[str, Any]:
        if out is not None:
            (config,) = map(yaml.safe_load, fences(page, "yaml"))
            done = merge_here(with_small(config, small), tmp_path / out)
            assert done.status == 0, done.text
        names = dict(given)
        for code in fences(page, "python")[only]:
            execute(code, small, names)
        return names

    return run


def execute(code: str, small: Callable[[str], Path], names: dict[str, Any]) -> None:
    """Run a piece of Python of a page, with small models for those that it names."""
    for name in re.findall(r'"([\w.-]+/[\w.-]+)"', code):
        if name in SMALL:
            code = code.replace(f'"{name}"', repr(str(small(name))))
    # As many tokens as a text of a few lines has use for.
    code = code.replace("vocab_size=32000", "vocab_size=100")
    exec(compile(code, "<page>", "exec"), names)


def test_a_draft_is_faster_and_changes_no_word(work: Workshop, small: Any) -> None:
    names = work("draft-model", "draft")
    target, tokenizer, inputs = names["target"], names["tokenizer"], names["inputs"]
    alone = target.generate(**inputs, do_sample=False, max_new_tokens=64)
    assert torch.equal(alone, names["tokens"])
    assert len(names["passes"]) > 0
    assert names["draft"].config.vocab_size == target.config.vocab_size >= len(tokenizer)


def test_a_draft_of_the_targets_own_family_gets_its_padding(
    models: Any, merge: Callable[..., Path]
) -> None:
    base = models("own", "byte_level")
    target = models("large", "byte_level", hidden=48, rows=2048, seed=1)
    out = merge(swap(base, target, "kriging", parameters={"match_donor_rows": True}))
    for made, own in zip(matrices(out), matrices(base), strict=True):
        assert len(made) == 2048 > len(own)
        assert torch.equal(made[: len(own)], own)


def test_distillation_brings_the_student_to_the_teacher(work: Workshop) -> None:
    names = work("distillation", "student", slice(0, 1))
    read = names["tokenizer"](TEXT.split("\n\n")[3], return_tensors="pt")
    before, after = (
        divergence(AutoModelForCausalLM.from_pretrained(path), names["teacher"].cpu(), read)
        for path in ("student", "distilled")
    )
    assert after < before


def divergence(student: Any, teacher: Any, read: Any) -> float:
    with torch.no_grad():
        ours, theirs = (m(**read).logits.log_softmax(-1) for m in (student, teacher))
    return float(torch.nn.functional.kl_div(ours, theirs, reduction="sum", log_target=True))


def test_an_ensemble_lies_between_its_models(work: Workshop) -> None:
    names = work("ensemble", "second")
    first, second, inputs = names["first"], names["second"], names["inputs"]

    def written(share: float, by: Any) -> torch.Tensor:
        mixing = [names["Ensemble"](by, share)]
        return first.generate(**inputs, logits_processor=mixing, do_sample=False, max_new_tokens=6)

    settings = {"do_sample": False, "max_new_tokens": 6}
    assert torch.equal(written(0.0, second), first.generate(**inputs, **settings))
    ids = inputs["input_ids"]
    with torch.no_grad():
        ours, theirs = (m(ids).logits[:, -1].float().softmax(-1) for m in (first, second))
        mixed = names["Ensemble"](second, 0.25)(ids, first(ids).logits[:, -1]).exp()
    assert torch.allclose(mixed, 0.75 * ours + 0.25 * theirs, atol=1e-6)


def test_a_vocabulary_of_a_field_is_trained_swapped_and_trained_on(
    work: Workshop, small: Any, tmp_path: Path
) -> None:
    names = work("domain-vocabulary", None, slice(0, 1))
    (config,) = map(yaml.safe_load, fences("domain-vocabulary", "yaml"))
    config["tokenizer_source"] = "domain-tokenizer"
    done = merge_here(with_small(config, small), tmp_path / "swapped")
    assert done.status == 0, done.text
    names = work("domain-vocabulary", None, slice(1, None), **names)
    own, new = names["own"], AutoTokenizer.from_pretrained("trained")
    assert len(new(TEXT).input_ids) < len(own(TEXT).input_ids)
    losses = [loss(path) for path in ("swapped", "trained")]
    assert losses[1] < losses[0]


def loss(path: str) -> float:
    model, tokenizer = (
        kind.from_pretrained(path) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    ids = tokenizer(TEXT, truncation=True, max_length=200, return_tensors="pt").input_ids
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


@pytest.mark.parametrize("base", ["Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"])
def test_healing_trains_the_new_rows_and_nothing_else(
    base: str, work: Workshop, small: Any, tmp_path: Path
) -> None:
    """Of a tied model and of one with a head of its own."""
    donor = str(small("meta-llama/Llama-3.2-1B-Instruct"))
    swap_into(tmp_path / "out", str(small(base)), donor)
    write_words_with_new_tokens(tmp_path)
    (command, *_) = fences("healing", "sh")
    options = "--split line --context 16 --steps 20 --every 10 --learning-rate 0.02"
    done = CliRunner().invoke(main, [*command.split()[1:], *options.split()])
    assert done.exit_code == 0, done.output
    origin = np.load("out/tokenizer_transplant.npz")["origin.0.0"]
    new = set(np.flatnonzero(origin == Origin.APPROXIMATED).tolist())
    check_healed(Path("out"), Path("healed"), new)


def swap_into(out: Path, base: str, donor: str) -> None:
    config = {
        "merge_method": "kriging",
        "base_model": base,
        "models": [{"model": base}],
        "tokenizer_source": donor,
        "dtype": "float32",
    }
    done = merge_here(config, out)
    assert done.status == 0, done.text


def write_words_with_new_tokens(folder: Path) -> None:
    """An input's row is trained where its token is read."""
    origin = np.load(folder / "out" / "tokenizer_transplant.npz")["origin.0.0"]
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    words = [tokenizer.decode([i]) for i in np.flatnonzero(origin == Origin.APPROXIMATED)[-80:]]
    (folder / "texts.txt").write_text("\n\n".join([" ".join(words)] * 4), encoding="utf-8")


def check_healed(before: Path, after: Path, new: set[int]) -> None:
    old, healed = (load_file(path / "model.safetensors") for path in (before, after))
    assert old.keys() == healed.keys()
    for name, rows in old.items():
        if "embed_tokens" in name or "lm_head" in name:
            changed = np.flatnonzero((healed[name] != rows).any(1).numpy())
            assert len(changed) and set(changed.tolist()) <= new, name
        else:
            assert torch.equal(healed[name], rows), name


def test_a_chat_stops_where_its_template_ends_an_answer(work: Workshop) -> None:
    names = work("chat", "out")
    tokenizer, model = names["tokenizer"], names["model"]
    stops = model.generation_config.eos_token_id
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") in stops
    # A model that finds that token most likely writes it, and nothing after it.
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    bias = {"sequence_bias": [[[end], 1e4]]}
    tokens = model.generate(**names["inputs"], max_new_tokens=8, do_sample=False, **bias)
    answer = tokens[0, names["inputs"]["input_ids"].shape[1] :].tolist()
    assert answer == [end]


def test_a_chat_keeps_its_own_markup(small: Callable[[str], Path], tmp_path: Path) -> None:
    """The page's other config: the model's own control tokens and template in the new tokenizer."""
    (config,) = map(yaml.safe_load, fences("chat", "yml"))
    done = merge_here(with_small(config, small), tmp_path / "out")
    assert done.status == 0, done.text
    model, tokenizer = (
        kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in model.generation_config.eos_token_id
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "the"}], return_dict=False)
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>") and end in ids
    own = AutoTokenizer.from_pretrained(small("Qwen/Qwen2.5-1.5B-Instruct"))
    rows = matrices(small("Qwen/Qwen2.5-1.5B-Instruct"))[0].bfloat16().float()
    made = matrices(tmp_path / "out")[0]
    assert torch.equal(made[end], rows[own.convert_tokens_to_ids("<|im_end|>")])


def test_the_notebook_runs_from_top_to_bottom(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text(TEXT, encoding="utf-8")
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            execute("".join(cell["source"]), small, names)
    check_healed(tmp_path / "out", tmp_path / "healed", set(names["new"]))


def test_every_job_is_on_the_list() -> None:
    listed = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for page in JOBS.glob("*.md"):
        assert f"(jobs/{page.name})" in listed
