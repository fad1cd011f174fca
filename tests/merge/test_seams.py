"""What other libraries do not promise to keep: found as expected, or named in one sentence."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from merges import swap, write_config
from packaging.requirements import Requirement

from mergekit_omp.plugin.seams import MERGE, PLAN, SUPPORTED, Seam, unsupported

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seam", [*PLAN, *MERGE], ids=str)
def test_the_installed_libraries_have_it(seam: Seam) -> None:
    # Where the plugin wraps a function, the signature seen is still the library's.
    assert seam.fault() is None


def test_the_supported_versions_are_those_that_pip_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [Requirement(line) for line in project["dependencies"]]
    assert [r.specifier for r in required if r.name == "mergekit"] == [SUPPORTED]


def one(first, second, third=3) -> None: ...
def two(second, first) -> None: ...
def more(first, second, needed) -> None: ...
def rest(first, second, *args, **kwargs) -> None: ...


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("one", None),
        ("rest", None),
        ("two", "has {}.two(second, first), not (first, second)"),
        ("more", "has {}.more(first, second, needed), not (first, second)"),
        ("none", "lacks {}.none"),
        ("one.deeper", "lacks {}.one.deeper"),
    ],
)
def test_a_changed_signature_is_a_fault(name: str, fault: str | None) -> None:
    found = Seam(__name__, name, ("first", "second")).fault()
    assert found == (fault and fault.format(__name__))


def test_a_missing_module_is_a_fault_that_names_the_library() -> None:
    assert unsupported([Seam("tokenizers.no_such_module", "a")]).startswith("tokenizers ")


def test_a_moved_seam_is_one_sentence_where_a_method_is_used(models, tmp_path: Path) -> None:
    base = models("sp", "sentencepiece_bpe")
    config = write_config(tmp_path / "c.yml", swap(base, base))
    # As a later release might have it: the card asks for other things.
    code = (
        "import mergekit.card; mergekit.card.generate_card = lambda config, yaml: '';"
        "from mergekit.scripts.run_yaml import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(config), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert (
        "mergekit.merge.generate_card(config, yaml), not (config, config_yaml, name)" in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
