"""The card lists what a merge is made of, and neither card nor record tells where it lay."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from merges import swap, write_config
from small_models import save_model

from mergekit_omp.record.shown_names import ShownNames

LAYERS = {"layers": 1, "hidden": 16}


@pytest.fixture
def pair(tmp_path: Path, real_tokenizer: Any) -> tuple[Path, Path]:
    """A base and a donor whose folders have one name."""
    base, donor = (tmp_path / side / "model" for side in ("mine", "theirs"))
    save_model(base, real_tokenizer("sentencepiece_bpe"), **LAYERS)
    save_model(donor, real_tokenizer("byte_level"), **LAYERS)
    return base, donor


def front_matter(out: Path) -> dict[str, Any]:
    return yaml.safe_load((out / "README.md").read_text().split("---\n")[1])


def licensed(model: Path, name: str) -> None:
    (model / "README.md").write_text(f"---\nlicense: {name}\n---\n# A model\n")


def test_local_paths_are_cut_to_what_tells_them_apart(
    pair: tuple[Path, Path], merge: Any, tmp_path: Path
) -> None:
    out = merge(swap(*pair, parameters={"k": 4}))
    config = (out / "mergekit_config.yml").read_text()
    assert config == (tmp_path / "out.yml").read_text()
    assert str(tmp_path) in config
    for name in ("README.md", "tokenizer_transplant.json"):
        assert str(tmp_path) not in (out / name).read_text()
    record = json.loads((out / "tokenizer_transplant.json").read_text())
    assert (record["base_model"], record["output"]["tokenizer_source"]) == (
        "mine/model",
        "theirs/model",
    )
    (model,) = record["models"]
    assert {d["model"] for t in model["tensors"] for d in t["donors"]} == {"theirs/model"}
    assert any("mine/model reads" in warning for warning in record["warnings"])


def test_the_card_lists_base_and_donor(pair: tuple[Path, Path], merge: Any) -> None:
    out = merge(swap(*pair, "mean"))
    matter = front_matter(out)
    assert matter["base_model"] == ["mine/model", "theirs/model"]
    assert matter["library_name"] == "transformers"
    assert matter["tags"] == ["mergekit", "merge", "tokenizer-transplant", "mean"]
    assert "license" not in matter
    card = (out / "README.md").read_text()
    included = card.partition("included in the merge:\n")[2].partition("\n\n")[0]
    assert included == "* mine/model"


@pytest.mark.parametrize(
    ("licences", "said", "sentence"),
    [
        (("apache-2.0", "apache-2.0"), "apache-2.0", None),
        (("apache-2.0", "llama3.2"), "other", "mine/model: apache-2.0; theirs/model: llama3.2."),
        ((None, "mit"), "mit", "mine/model: not known; theirs/model: mit."),
    ],
)
def test_licences_where_they_are_known(
    licences: tuple[str | None, str], said: str, sentence: str | None, pair: Any, merge: Any
) -> None:
    for model, name in zip(pair, licences, strict=True):
        if name:
            licensed(model, name)
    out = merge(swap(*pair, "mean"))
    assert front_matter(out)["license"] == said
    assert ("Licences:" in (out / "README.md").read_text()) == (sentence is not None)
    assert sentence is None or f"Licences: {sentence}" in (out / "README.md").read_text()


def test_a_bare_folder_name_without_a_network(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """mergekit's card asks the Hub for the name of such a folder, after the weights."""
    for model, name in zip(pair, ("base", "donor"), strict=True):
        shutil.copytree(model, tmp_path / name)
    write_config(tmp_path / "c.yml", swap(Path("base"), "donor", "mean"))
    done = subprocess.run(
        [Path(sys.executable).with_name("mergekit-yaml"), "c.yml", "out"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert front_matter(tmp_path / "out")["base_model"] == ["base", "donor"]


@pytest.mark.parametrize(
    ("paths", "text", "shown"),
    [
        (
            ["/a/b/c"],
            "/a/b/c has, in /a/b/c/x.json, and /a/b/cd",
            "c has, in c/x.json, and /a/b/cd",
        ),
        (["/a/b", "/a/b/c"], "/a/b/c and /a/b.", "c and b."),
        (["/x/m", "/y/m"], "/x/m, /y/m", "x/m, y/m"),
        (["/m/"], "/m/ or /m", "m or m"),
        (["org/name", "./here"], "org/name ./here", "org/name ./here"),
        (
            ["/h/models--org--name/snapshots/0a1b"],
            "/h/models--org--name/snapshots/0a1b",
            "org/name",
        ),
        ([], "/kept/as/it/is", "/kept/as/it/is"),
    ],
)
def test_short_names(paths: list[str], text: str, shown: str) -> None:
    assert ShownNames(paths)(text) == shown


def test_other_paths_in_a_record_are_cut_too() -> None:
    assert ShownNames(["/a/b"]).of({"vectors": "/home/me/x.vec", "n": [1, "/a/b"]}) == {
        "vectors": "x.vec",
        "n": [1, "b"],
    }
