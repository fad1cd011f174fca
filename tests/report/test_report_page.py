"""Reports as a user gets them: the command, its files, a real browser, and bad input."""

from __future__ import annotations

import html.parser
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from related_models import MARKUP, TURNED
from safetensors.torch import load_file, save_file

from mergekit_omp.errors import TransplantError
from mergekit_omp.report.tokens import shown
from mergekit_omp.report.write import write_report

HEADINGS = (
    "What was done",
    "Held-out check",
    "Outlier rows",
    "Input embedding",
    "Output head",
    "Config and versions",
)


class Seen(html.parser.HTMLParser):
    """Tags, ids, references, and the text of headings and tokens."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.headings: list[str] = []
        self.tokens: list[str] = []
        self._open: list[str] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = {name: value or "" for name, value in attrs}
        self.ids += [found["id"]] if "id" in found else []
        self.references += [found[n] for n in ("href", "src", "xlink:href") if n in found]
        self._open = {"h2": self.headings, "bdi": self.tokens}.get(tag)

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self._open.append(data)
            self._open = None


@pytest.fixture(scope="module")
def page(swapped: Path) -> Path:
    """By the real command, in a process of its own."""
    command = Path(sys.executable).with_name("mergekit-omp")
    done = subprocess.run(
        [str(command), "report", str(swapped)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    path = swapped / "tokenizer_transplant.html"
    assert str(path) in done.stdout
    return path


def test_it_is_one_file_that_needs_nothing_else(page: Path) -> None:
    seen = Seen(page.read_text(encoding="utf-8"))
    assert seen.headings == list(HEADINGS)
    assert not seen.tags & {"script", "img", "iframe", "object"}
    assert "svg" in seen.tags
    assert len(seen.ids) == len(set(seen.ids))
    for reference in seen.references:
        assert reference == "data:," or reference.removeprefix("#") in seen.ids
    assert page.stat().st_size < 1e6


def test_tokens_are_text_whatever_they_hold(page: Path) -> None:
    written = page.read_text(encoding="utf-8")
    seen = Seen(written)
    assert shown(MARKUP) in seen.tokens
    assert shown(TURNED) == "abc\\u202edcba" in seen.tokens
    assert TURNED not in written and "<script" not in written


def test_two_reports_are_the_same_bytes(page: Path, swapped: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the command had: sums of parts are rounded in another way
    try:
        again = write_report(swapped, tmp_path / "again.html")
    finally:
        torch.set_num_threads(threads)
    assert again.read_bytes() == page.read_bytes()


def chromium(*arguments: str) -> subprocess.CompletedProcess[str]:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("there is no chromium to render the page with")
    return subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--v=0",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_a_browser_renders_it_without_a_complaint(page: Path, tmp_path: Path) -> None:
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = chromium(profile, "--dump-dom", page.as_uri())
    assert Seen(done.stdout).headings == list(HEADINGS)
    assert "CONSOLE" not in done.stderr
    # What a complaint looks like, so that the line above can fail.
    broken = tmp_path / "broken.html"
    broken.write_text("<script>nothing.here()</script>")
    assert "CONSOLE" in chromium(profile, "--dump-dom", broken.as_uri()).stderr


def test_markdown_has_the_tables_and_breaks_none(swapped: Path, tmp_path: Path) -> None:
    path = write_report(swapped, tmp_path / "report.md", markdown=True)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line[3:] for line in lines if line.startswith("## ")] == list(HEADINGS)
    widths: set[int] = set()
    tables = 0
    for line in [*lines, ""]:
        if line.startswith("|"):
            widths.add(line.replace("\\|", "").count("|"))
        elif widths:
            assert len(widths) == 1
            tables, widths = tables + 1, set()
    assert tables >= 8
    assert any(f"`{shown(MARKUP)}`" in line for line in lines)


def test_without_the_models_a_report_is_made_and_says_what_is_left_out(
    swapped: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(swapped, out)
    config = (out / "mergekit_config.yml").read_text()
    (out / "mergekit_config.yml").write_text(config.replace("/base", "/gone"))
    written = write_report(out, None, markdown=True).read_text(encoding="utf-8")
    assert "Not in this report" in written
    assert "held-out check" in written and "gone" in written
    assert "Highest relative residual" in written
    (out / "tokenizer_transplant.npz").unlink()
    (out / "mergekit_config.yml").unlink()
    written = write_report(out, None).read_text(encoding="utf-8")
    assert "no mergekit_config.yml" in written and "tokenizer_transplant.npz" in written


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda out: (out / "tokenizer_transplant.json").unlink(), "has no tokenizer_transplant"),
        (lambda out: cut(out / "tokenizer_transplant.json"), "is not JSON"),
        (lambda out: drop(out / "tokenizer_transplant.json", "models"), "models is not what"),
        (lambda out: drop_tensor(out, "lm_head.weight"), "has no tensor lm_head.weight"),
        (lambda out: (out / "model.safetensors").unlink(), "has no weights"),
        (lambda out: cut(out / "model.safetensors"), "weights that cannot be read"),
        (lambda out: (out / "tokenizer.json").unlink(), "no tokenizer that transformers can load"),
        (
            lambda out: (out / "tokenizer_transplant.html").write_text("<p>mine"),
            "is not a report of mergekit-omp",
        ),
    ],
)
def test_bad_input_is_one_clear_error(
    spoil: object, says: str, swapped: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(swapped, out, ignore=shutil.ignore_patterns("*.html", "*.md"))
    spoil(out)  # type: ignore[operator]
    with pytest.raises(TransplantError, match=says):
        write_report(out, None, hidden=0)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def drop(path: Path, key: str) -> None:
    record = json.loads(path.read_text())
    del record[key]
    path.write_text(json.dumps(record))


def drop_tensor(out: Path, name: str) -> None:
    tensors = load_file(out / "model.safetensors")
    del tensors[name]
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(TransplantError, match="is not a directory"):
        write_report(tmp_path / "nowhere", None)


def test_without_matplotlib_the_error_says_what_to_install(
    swapped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(TransplantError, match=r"pip install 'mergekit-omp\[report\]'"):
        write_report(swapped, tmp_path / "report.html")
    assert write_report(swapped, tmp_path / "report.md", markdown=True, hidden=0).exists()
