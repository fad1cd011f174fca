"""`mergekit-omp grow`: what it writes, what it says, what it refuses."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner, Result
from huggingface_hub.errors import StrictDataclassFieldValidationError
from merges import swap
from readers import OlderTransformers
from safetensors.torch import load_file, save_file
from small_models import load
from tiny_models import some_ids, tiny
from transformers import AutoConfig, AutoModelForCausalLM

from mergekit_omp.cli import main
from mergekit_omp.growth import check, grow, ngrams, over_encoding, shards
from mergekit_omp.models.configs import GROWN

SMALL = ("--over-encoding", "--rows", "9001", "--width", "8")


def run(*words: object) -> Result:
    result = CliRunner().invoke(main, ["grow", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(*words: object, status: int = 1) -> str:
    result = run(*words)
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture(scope="module")
def source(models: Any) -> Path:
    """A model in several files, with a tokenizer, a card and weights of another format."""
    path = models("grow", "byte_level", shard_size="40KB", dtype=torch.bfloat16)
    (path / "README.md").write_text("---\nlicense: mit\n---\n# Its own card\n")
    (path / "tokenizer_transplant.html").write_text("a report on what it was")
    (path / "pytorch_model.bin").write_bytes(b"old")
    (path / ".git").mkdir(exist_ok=True)
    # A class that transformers 4.57 knows too, as published models and merges have it.
    settings = json.loads((path / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="module")
def grown(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("grown") / "out"
    result = run(source, out, *SMALL, "--orders", "2,4", "--splits", "2")
    assert result.exit_code == 0, result.output
    return out, result.output


def test_it_says_what_the_model_said(source: Path, grown: tuple[Path, str]) -> None:
    before, tokenizer = load(source)
    after, same_tokenizer = load(grown[0])
    assert type(after).__name__ == "OverEncodedLlamaForCausalLM"
    ids = torch.tensor([tokenizer("Hello wörld, 12345").input_ids])
    assert same_tokenizer("Hello wörld, 12345").input_ids == ids[0].tolist()
    assert torch.equal(after(ids).logits, before(ids).logits)
    assert after.dtype == torch.bfloat16
    sizes = [table.weight.shape[0] for table in after.over_encoding.tables]
    assert sizes[0] == 9001 and len(set(sizes)) == 4
    assert all(math.gcd(size, after.config.vocab_size) == 1 for size in sizes)
    assert not any(table.weight.any() for table in after.over_encoding.tables)
    assert all(projection.weight.any() for projection in after.over_encoding.projections)
    text = after.generate(ids, max_new_tokens=5, do_sample=False)
    assert torch.equal(text, before.generate(ids, max_new_tokens=5, do_sample=False))


def test_it_tells_sizes_and_writes_a_record(source: Path, grown: tuple[Path, str]) -> None:
    out, said = grown
    record = json.loads((out / "growth.json").read_text())
    new = load(out)[0].over_encoding.parameters()
    count = sum(p.numel() for p in new)
    assert record["parameters"] == count and record["bytes"] == 2 * count
    assert f"{count:,} parameters are added" in said
    assert f"Logits of {record['checked_tokens']} tokens are equal to the bit." in said
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n# Its own card\n\n## Grown\n")
    assert f"added {count} parameters" in card and "9001 rows of 8 for 2" in card
    # Files of weights are copies, and nothing of another format or of git came along.
    old = sorted(p.read_bytes() for p in source.glob("*.safetensors"))
    copies = sorted(p.read_bytes() for p in out.glob("*.safetensors"))
    assert all(data in copies for data in old) and len(copies) == len(old) + 1
    left = {"pytorch_model.bin", ".git", ".mergekit-omp", "tokenizer_transplant.html"}
    assert not left & {p.name for p in out.iterdir()}
    assert str(source.parent) not in "".join(
        p.read_text() for p in out.glob("*.json") if p.name != "tokenizer.json"
    )


def test_the_same_seed_writes_the_same_bytes(source: Path, tmp_path: Path) -> None:
    outs = [tmp_path / name / "out" for name in "abc"]
    for out, seed in zip(outs, (0, 0, 1), strict=True):
        out.parent.mkdir()
        assert run(source, out, *SMALL, "--seed", seed, "--quiet").output == ""
    a, b, c = ({p.name: p.read_bytes() for p in out.iterdir()} for out in outs)
    assert a == b
    assert {name for name in a if a[name] != c[name]} == {
        "growth.json",
        max(name for name in a if name.endswith(".safetensors")),
    }


def test_it_loads_by_its_own_file_without_this_package(
    grown: tuple[Path, str], tmp_path: Path, older: OlderTransformers
) -> None:
    """In another process, and in transformers 4.57, with trust in remote code; never without."""
    program = (
        "import sys, json, torch\n"
        "from transformers import AutoModelForCausalLM as A\n"
        f"path = {str(grown[0])!r}\n"
        "try:\n    A.from_pretrained(path, trust_remote_code=False); sys.exit('it loaded')\n"
        "except ValueError as error:\n    assert 'custom code' in str(error), error\n"
        "model = A.from_pretrained(path, trust_remote_code=True).eval()\n"
        f"model.save_pretrained({str(tmp_path / 'again')!r})\n"
        "assert 'mergekit_omp' not in sys.modules\n"
        "print(json.dumps(model(torch.arange(9)[None]).logits[0].float().tolist()))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    model = load(grown[0])[0]
    expected = model(torch.arange(9)[None]).logits[0].float()
    assert json.loads(ran.stdout.splitlines()[-1]) == expected.tolist()
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
        assert torch.equal(again(torch.arange(9)[None]).logits[0].float(), expected)
        theirs = older.read(grown[0], ["x"], trust=True, ids=list(range(9)))
        assert theirs["version"].startswith("4.57.") and not theirs["problems"]
        torch.testing.assert_close(
            torch.tensor(theirs["logits"]),
            model.float()(torch.arange(9)[None]).logits[0],
            rtol=1e-4,
            atol=1e-4,
        )


def test_tables_mean_the_same_where_rows_are_scaled_elsewhere(
    models: Any, tmp_path: Path, older: OlderTransformers
) -> None:
    """Gemma 2: transformers 5 scales rows in the embedding, and 4.57 after it."""
    sizes = {"layers": 1, "hidden": 16, "head_dim": 8, "attn_logit_softcapping": None}
    source = models("gemma2", "byte_level", model_type="gemma2", tied=True, **sizes)
    assert run(source, tmp_path / "out", *SMALL).exit_code == 0
    model, tokenizer = load(tmp_path / "out")
    assert model.config.over_encoding["embed_scale"] == 4
    for table in model.over_encoding.tables:
        torch.nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path / "trained")
    tokenizer.save_pretrained(tmp_path / "trained")
    file = tmp_path / "trained" / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    file.write_text(json.dumps(settings))
    ids = list(range(9))
    theirs = older.read(tmp_path / "trained", ["x"], trust=True, ids=ids)
    with torch.no_grad():
        ours = model(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(torch.tensor(theirs["logits"]), ours, rtol=1e-3, atol=1e-3)


def test_the_class_without_tables_does_not_load_it(
    grown: tuple[Path, str], tmp_path: Path, older: OlderTransformers
) -> None:
    """Nor after saving again; the tokenizer needs no trust in code all the same."""
    load(grown[0])[0].save_pretrained(tmp_path)
    for path in (grown[0], tmp_path):
        for kind in ("LlamaForCausalLM", "LlamaModel", "LlamaConfig"):
            with pytest.raises(
                StrictDataclassFieldValidationError, match="n-grams: load this with"
            ):
                getattr(transformers, kind).from_pretrained(path)
        with pytest.raises(ValueError, match=r"custom code|Unrecognized"):
            transformers.AutoModel.from_pretrained(path)
        assert type(AutoConfig.from_pretrained(path).hidden_size) is int
    with pytest.raises(RuntimeError, match="str"):
        older.read(grown[0], ["x"], kind="LlamaForCausalLM", ids=[1])
    program = f"from transformers import AutoTokenizer as A; A.from_pretrained({str(grown[0])!r})"
    ran = subprocess.run([sys.executable, "-c", program], stdin=subprocess.DEVNULL)
    assert ran.returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        *("Qwen2ForCausalLM", "OlmoeForCausalLM", "GPT2LMHeadModel", "OPTForCausalLM"),
        *("GraniteForCausalLM", "DeepseekV3ForCausalLM", "Qwen3NextForCausalLM"),
    ],
)
def test_tied_heads_experts_and_old_names_grow(name: str, tmp_path: Path) -> None:
    tiny(name).save_pretrained(tmp_path / "model")
    result = run(tmp_path / "model", tmp_path / "out", *SMALL, "--rows", 101)
    assert result.exit_code == 0, result.output
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(after(some_ids(2, 9)).logits, before(some_ids(2, 9)).logits)


def test_rows_and_orders_that_make_no_hash_are_refused(source: Path, tmp_path: Path) -> None:
    rows = load(source)[0].get_input_embeddings().weight.shape[0]
    out = tmp_path / "out"
    said = refused(source, out, "--over-encoding", "--rows", 2 * rows)
    assert f"shares the factor {rows}" in said and f"Write {2 * rows + 1}." in said
    assert "fewer than the model's" in refused(source, out, "--over-encoding", "--rows", rows - 1)
    assert "--width is 0" in refused(source, out, *SMALL, "--width", 0)
    assert "1 to 16 tokens" in refused(source, out, *SMALL, "--orders", "2,99")
    assert "or one twice" in refused(source, out, *SMALL, "--orders", "2,2")
    assert "is not a list" in refused(source, out, *SMALL, "--orders", "2;3", status=2)
    assert "--over-encoding" in refused(source, out, status=2)
    assert "--share says nothing without" in refused(source, out, *SMALL, "--share", 1, status=2)
    said = refused(source, out, "--over-decoding", 1, "--rows", 9001, status=2)
    assert "--rows says nothing without --over-encoding" in said
    # Known before a disk is full of zeros.
    assert "MB are free" in refused(source, out, "--over-encoding", "--rows", 10**12 + 39)
    assert not out.exists()


def test_what_cannot_be_grown_is_refused(
    source: Path, grown: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert "is already grown" in refused(grown[0], out, *SMALL)

    def changed(name: str, **settings: Any) -> Path:
        path = tmp_path / name
        shutil.copytree(source, path)
        content = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**content, **settings}))
        return path

    t5 = changed("t5", model_type="t5", architectures=["T5ForConditionalGeneration"])
    assert "no decoder-only language model" in refused(t5, out, *SMALL)
    mamba = changed("mamba", model_type="mamba", architectures=["MambaForCausalLM"])
    assert "takes no" in refused(mamba, out, *SMALL)
    codes = changed("codes", quantization_config={"quant_method": "bitsandbytes"})
    assert "is quantised" in refused(codes, out, *SMALL)
    pickled = changed("pickled")
    for file in pickled.glob("*.safetensors*"):
        file.unlink()
    torch.save({"model.embed_tokens.weight": torch.zeros(2, 2)}, pickled / "pytorch_model.bin")
    assert "are not safetensors" in refused(pickled, out, *SMALL)
    short = changed("short")
    first = min(short.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-10])
    assert first.name in refused(short, out, *SMALL)
    assert "no such directory" in refused(tmp_path / "nowhere", out, *SMALL)
    assert not out.exists()


def test_grown_models_are_not_merged(grown: tuple[Path, str], refusal: Any) -> None:
    assert "was grown" in refusal(swap(grown[0], grown[0], "mean"))
    assert over_encoding.MODEL_TYPE == GROWN


def test_grown_models_are_evaluated(grown: tuple[Path, str], source: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Some text to predict. " * 20)
    words = ["evaluate", str(source), str(grown[0]), "--json", "--quiet"]
    result = CliRunner().invoke(main, [*words, "--text", str(tmp_path / "text.txt")])
    assert result.exit_code == 0, result.output
    before, after = json.loads(result.output)["models"]
    assert before["bits_per_byte"] == after["bits_per_byte"]


def test_nothing_is_written_over(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    assert "is there already" in refused(source, tmp_path, *SMALL)
    assert "is there already" in refused(source, tmp_path / "mine", *SMALL)
    assert "is there already" in refused(source, source, *SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_a_model_that_reads_more_of_its_ids_is_not_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a class would that looks at ids beside embedding them: the check finds it out."""
    plain = ngrams.OverEncoding.forward

    def off(self: Any, embedded: Any, known: Any, scale: Any = None) -> Any:
        return plain(self, embedded, known, scale) * 1.01

    monkeypatch.setattr(ngrams.OverEncoding, "forward", off)
    assert "does not say what" in refused(source, tmp_path / "out", *SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_swap_whose_tokenizer_needs_a_class_of_its_own_grows(
    models: Any, merge: Any, tmp_path: Path
) -> None:
    """A Qwen2 base: transformers picks the tokenizer's class by the type of the model."""
    tiny_layers = {"layers": 1, "hidden": 16}
    base = models("qwen2", "byte_level", model_type="qwen2", tied=True, **tiny_layers)
    donor = models("donor", "sentencepiece_bpe", **tiny_layers)
    swapped = merge(swap(base, donor, "mean"))
    assert run(swapped, tmp_path / "grown", *SMALL).exit_code == 0
    text = "Hello wörld, def f(x):\n    return 12345\n"
    ids = [load(path)[1](text).input_ids for path in (swapped, tmp_path / "grown")]
    assert ids[0] == ids[1] == load(donor)[1](text).input_ids


def test_what_fails_half_way_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(grow, "write_tensors", full)
    assert "There is no room" in refused(source, tmp_path / "out", *SMALL)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    # Weights that do not fit the config are found by the check, before anything counts as there.
    damaged = tmp_path / "damaged"
    shutil.copytree(source, damaged)
    file = max(damaged.glob("*.safetensors"))
    held = load_file(file)
    dropped = sorted(held)[0]
    save_file({n: t for n, t in held.items() if n != dropped}, file, metadata={"format": "pt"})
    index = damaged / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    del content["weight_map"][dropped]
    index.write_text(json.dumps(content))
    assert dropped in refused(damaged, tmp_path / "out", *SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["damaged"]


def test_large_models_are_checked_from_disk(source: Path, grown: tuple[Path, str]) -> None:
    """With a bound on memory that the model does not fit, the logits are the same."""
    whole = check.logits(transformers.LlamaForCausalLM, source, check.sample(50))
    assert torch.equal(
        check.logits(transformers.LlamaForCausalLM, source, check.sample(50), memory=100_000), whole
    )
    wanted = over_encoding.over_encoded("LlamaForCausalLM")
    assert torch.equal(check.logits(wanted, grown[0], check.sample(50), memory=100_000), whole)


@pytest.mark.parametrize("copied", [0, 1, 3])
def test_files_are_copied_where_the_system_has_no_short_cut(
    copied: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at all, or not to the end."""
    data = bytes(range(256)) * 40
    (tmp_path / "old").write_bytes(data)
    calls = 0

    def gives_up(old: int, new: int, _count: int) -> int:
        nonlocal calls
        calls += 1
        if calls > copied:
            raise OSError(errno.EXDEV, "no")
        return os.write(new, os.read(old, 1000))

    monkeypatch.setattr(os, "copy_file_range", gives_up, raising=False)
    heard: list[int] = []
    shards.copy_file(tmp_path / "old", tmp_path / "new", heard.append)
    assert (tmp_path / "new").read_bytes() == data and sum(heard) == len(data)


def test_what_a_killed_run_left_is_no_hindrance(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / ".mergekit-omp" / "out").mkdir(parents=True)
    assert run(source, tmp_path / "out", *SMALL).exit_code == 0
    assert (tmp_path / "out" / "config.json").is_file()
    # Killed while it was moved into place: not to be taken for the user's own files.
    (tmp_path / "half" / ".mergekit-omp").mkdir(parents=True)
    (tmp_path / "half" / "README.md").touch()
    assert "of a run that was killed" in refused(source, tmp_path / "half", *SMALL)


def test_new_tensors_are_files_that_safetensors_reads(tmp_path: Path) -> None:
    values = torch.randn(5, 3)
    tensors = [
        shards.NewTensor("zeros", (7, 2), torch.bfloat16),
        shards.NewTensor("values", (5, 3), torch.float16, values),
        shards.NewTensor("ids", (2, 2), torch.int64, torch.tensor([[1, -1], [2**40, 0]])),
    ]
    heard: list[int] = []
    shards.write_tensors(tmp_path / "x.safetensors", tensors, heard.append)
    found = load_file(tmp_path / "x.safetensors")
    assert torch.equal(found["zeros"], torch.zeros(7, 2, dtype=torch.bfloat16))
    assert torch.equal(found["values"], values.half())
    assert found["ids"].tolist() == [[1, -1], [2**40, 0]]
    assert sum(heard) == sum(tensor.size for tensor in tensors)
    with pytest.raises(FileExistsError):
        shards.write_tensors(tmp_path / "x.safetensors", tensors, heard.append)
