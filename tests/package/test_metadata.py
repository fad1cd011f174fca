"""What surrounds the code: hints for a user's type checker, metadata, files that hosts read."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.metadata.core import ProjectMetadata
from mypy import api as mypy
from trove_classifiers import classifiers

import mergekit_omp

ROOT = Path(__file__).parents[2]
PROJECT = ProjectMetadata(str(ROOT), None).config["project"]

A_USERS_FILE = """
import mergekit_omp
from mergekit_omp import (
    Alignment, SparseCode, Vocabulary, __version__, align, bits_per_byte,
    orthogonal_matching_pursuit,
)

def found(a: Vocabulary, b: Vocabulary) -> Alignment:
    return align(a, b)

def coded(rows: object) -> SparseCode:
    return orthogonal_matching_pursuit(rows, rows, k="four")

version: str = __version__
score: float = bits_per_byte(1, 2, ["text"]).bits_per_byte
wrong: int = mergekit_omp.__version__
mergekit_omp.no_such_name
"""

# Without these a user's mypy takes a minute longer, and says the same of this package.
LARGE = ("torch", "transformers", "numba", "numpy", "mergekit")


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_a_users_mypy_sees_types(tmp_path: Path) -> None:
    file = tmp_path / "users.py"
    file.write_text(A_USERS_FILE)
    settings = ["[mypy]"]
    for library in LARGE:
        settings += [f"[mypy-{library}.*]", "follow_imports = skip"]
    # A user's settings, not this project's.
    (tmp_path / "mypy.ini").write_text("\n".join(settings))
    out, problems, _ = mypy.run(
        [
            *("--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(tmp_path / "cache")),
            *("--python-executable", sys.executable, "--strict", str(file)),
        ]
    )
    assert not problems
    found = [line.split(":")[1] for line in out.splitlines() if ": error:" in line]
    lines = A_USERS_FILE.splitlines()
    assert [lines[int(number) - 1].strip() for number in found] == [
        'return orthogonal_matching_pursuit(rows, rows, k="four")',
        "wrong: int = mergekit_omp.__version__",
        "mergekit_omp.no_such_name",
    ], out


def test_public_names_are_in_dir_and_load() -> None:
    assert set(mergekit_omp.__all__) <= set(dir(mergekit_omp))
    for name in mergekit_omp.__all__:
        assert getattr(mergekit_omp, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mergekit_omp.no_such_name  # type: ignore[attr-defined]


def test_one_version_everywhere() -> None:
    cited = load("CITATION.cff")
    assert cited["version"] == PROJECT["version"] == mergekit_omp.__version__
    assert cited["license"] == PROJECT["license"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "arXiv:2506.06607" in str(cited["references"])


def test_classifiers_exist() -> None:
    assert set(PROJECT["classifiers"]) <= classifiers


def test_the_workflow_runs_what_the_readme_tells_to_run_on_linux_and_macos() -> None:
    workflow = load(".github/workflows/test.yml")
    job = workflow["jobs"]["test"]
    assert {"run": ".ci/run"} in job["steps"]
    systems = job["strategy"]["matrix"]["os"]
    assert any(name.startswith("ubuntu") for name in systems)
    assert any(name.startswith("macos") for name in systems)
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert oldest in job["strategy"]["matrix"]["python"]
    declared = {name.rpartition(" ")[2] for name in PROJECT["classifiers"]}
    assert set(job["strategy"]["matrix"]["python"]) <= declared
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_hooks_before_a_commit_use_the_linters_of_the_suite() -> None:
    pinned = re.search(r"^(ruff==\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    (repository,) = load(".pre-commit-config.yaml")["repos"]
    for hook in repository["hooks"]:
        assert hook["additional_dependencies"] == [pinned[1]], hook["id"]


@pytest.mark.parametrize("form", ["bug", "idea"])
def test_an_issue_form_has_what_its_host_asks_for(form: str) -> None:
    content = load(f".github/ISSUE_TEMPLATE/{form}.yml")
    assert content["name"] and content["description"]
    ids = [field["id"] for field in content["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 0
    for field in content["body"]:
        assert ("label" if "id" in field else "value") in field["attributes"]
