"""What the documentation says exists: configs, links, commands, options, files, names, pages."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge_methods import registered_methods
from mergekit.scripts.run_yaml import main as mergekit_yaml

from mergekit_omp.approximation import APPROXIMATIONS
from mergekit_omp.cli import main as mergekit_omp
from mergekit_omp.plugin import hooks

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
GENERATED = {"configs.md"}
"""Pages that `docs/hooks.py` adds."""

API = sorted(path for path in (DOCS / "api").glob("*.md") if path.name != "index.md")
_FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for named, text in found if named == language]


def spans(page: Path) -> list[str]:
    return _SPAN.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def commands(page: Path) -> Iterator[list[str]]:
    """Every command line of the page, from fenced blocks and from code in sentences."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    for line in lines + spans(page):
        words = line.partition(" #")[0]
        if words.startswith(("mergekit-omp ", "mergekit-yaml ", "make ")) and "<" not in words:
            yield shlex.split(words.replace("...", ""))


def options(command: click.Command) -> set[str]:
    """The names of a command's options, `--help` apart."""
    parameters = command.get_params(click.Context(command))
    return {name for parameter in parameters for name in parameter.opts if name.startswith("-")}


def members(page: Path) -> tuple[str, list[str]]:
    """The module that a page of the reference is about, and the members that it lists."""
    text = page.read_text(encoding="utf-8")
    ((module, settings),) = re.findall(r"^::: (\S+)\n((?:    .*\n)*)", text, re.MULTILINE)
    return module, yaml.safe_load(settings)["options"]["members"]


@every_page
def test_configs_are_mergekits_and_name_methods_that_exist(page: Path) -> None:
    hooks.activate()
    methods = {method.spec.name for method in registered_methods()}
    for block in blocks(page, "yaml"):
        content = yaml.safe_load(block)
        if "merge_method" in content:
            assert MergeConfiguration.model_validate(content).merge_method in methods


def test_there_are_configs_in_the_pages() -> None:
    assert sum("merge_method:" in block for page in PAGES for block in blocks(page, "yaml")) >= 4


@every_page
def test_python_in_the_pages_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


@every_page
def test_relative_links_lead_to_something(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "#")):
            continue
        path = page.parent / target.partition("#")[0]
        assert path.exists() or path.name in GENERATED, f"{page.name}: {target}"


@every_page
def test_commands_and_their_options_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for program, *words in commands(page):
        if program == "make":
            assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE), words
            continue
        command: click.Command = mergekit_yaml
        if program == "mergekit-omp":
            if not words or words[0] in ("--help", "--version"):
                continue
            assert words[0] in mergekit_omp.commands, words
            command = mergekit_omp.commands[words[0]]
        named = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert named <= options(command) | {"--help"}, words


@pytest.mark.parametrize(
    "name", [name for name in sorted(mergekit_omp.commands) if (DOCS / f"{name}.md").exists()]
)
def test_options_on_a_commands_page_are_its_own(name: str) -> None:
    page = DOCS / f"{name}.md"
    own = options(mergekit_omp.commands[name]) | options(mergekit_yaml)
    named = {span.split()[0] for span in spans(page) if span.startswith("--")}
    assert named <= own


@every_page
def test_files_of_the_project_that_a_page_names_exist(page: Path) -> None:
    folders = ("mergekit_omp/", "tests/", "benchmarks/", "configs/", "docs/")
    for span in spans(page):
        if span.startswith(folders) and re.fullmatch(r"[\w./-]+", span):
            assert (ROOT / span).exists(), span


@pytest.mark.parametrize("page", API, ids=lambda path: path.stem)
def test_the_reference_has_every_public_name(page: Path) -> None:
    """And no other: a page lists the members by hand, in the order to read them."""
    _, names = members(page)
    module = importlib.import_module(f"mergekit_omp.{page.stem}")
    assert sorted(names) == sorted(module.__all__)
    for name in names:
        assert hasattr(module, name)


@pytest.mark.parametrize("method", sorted(APPROXIMATIONS))
def test_the_page_of_methods_has_every_parameter_with_its_default(method: str) -> None:
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    (common,) = re.findall(
        r"^## What all have in common\n(.*?)^## ", page, re.MULTILINE | re.DOTALL
    )
    (own,) = re.findall(rf"^## {method}\n(.*?)(?:^## |\Z)", page, re.MULTILINE | re.DOTALL)
    for name, field in APPROXIMATIONS[method].model_fields.items():
        # The common table says in a column of its own which methods have the parameter.
        cells = [
            *re.findall(rf"^\| `{name}` \| ([^|]*) \|", own, re.MULTILINE),
            *re.findall(
                rf"^\| `{name}` \| (?:all|[^|]*`{method}`[^|]*) \| ([^|]*) \|", common, re.MULTILINE
            ),
        ]
        assert cells, name
        if field.default is not None:  # else it is chosen, as the page says in words
            assert {yaml.safe_load(cell.strip("`")) for cell in cells} == {field.default}, name


def test_the_navigation_lists_every_page() -> None:
    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict):
            yield from pages(list(entry.values()))
        elif isinstance(entry, list):
            for item in entry:
                yield from pages(item)

    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = list(pages(settings["nav"]))
    written = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert sorted(listed) == sorted(written | GENERATED)


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Where the `docs` extra is installed, as `make docs` does."""
    pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed")
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    for page in tmp_path.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?([^\s\">]+)", html)
        loaded += re.findall(r"<link[^>]* rel=\"?(?:stylesheet|preconnect)[^>]*>", html)
        assert not [source for source in loaded if "//" in source], page.name
    assert "<svg" in (tmp_path / "how-it-works.html").read_text(encoding="utf-8").split("<h1")[1]
    configs = (tmp_path / "configs.html").read_text(encoding="utf-8")
    for path in (ROOT / "configs").glob("*.yml"):
        assert f'id="{path.stem}"' in configs
    for page in API:
        module, names = members(page)
        html = (tmp_path / "api" / f"{page.stem}.html").read_text(encoding="utf-8")
        for name in names:
            assert f'id="{module}.{name}"' in html


def test_pictures_are_drawn_from_the_tables_as_they_are() -> None:
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "pictures.py")
    assert spec is not None and spec.loader is not None
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    for path, svg in pictures.drawn().items():
        assert path.read_text(encoding="utf-8") == svg, f"run python docs/pictures.py: {path.name}"
        ElementTree.fromstring(svg)


def test_the_best_method_is_the_first_that_a_newcomer_meets() -> None:
    """And no `k` is written where the default is better."""
    for page in (ROOT / "README.md", DOCS / "index.md", DOCS / "quick-start.md"):
        methods = [yaml.safe_load(block)["merge_method"] for block in blocks(page, "yaml")]
        assert methods and all(method.startswith("kriging") for method in methods), page.name
    for path in (ROOT / "configs").glob("*.yml"):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if config["merge_method"].partition("+")[0] != "kriging":
            assert path.stem in ("domain-vocabulary", "hypernetwork"), "without a donor's weights"
        assert "k" not in config.get("parameters", {})
