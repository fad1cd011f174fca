"""What the site has beyond its Markdown: the configs as a page, and drawings that follow the theme.

The pages are written to be read in the repository too, so they link to files that are not part of
the site. Links to `configs/` lead to the generated page; of other links that leave `docs/` the
words stay. Drawings (`assets/*.svg`) become part of the page, where they see the theme's colours.
"""

from __future__ import annotations

import logging
import posixpath
import re
from itertools import takewhile
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

# mkdocs counts warnings of its own loggers: with `strict` each is an error.
LOG = logging.getLogger("mkdocs.hooks.docs")

CONFIGS = "configs.md"
_LINK = re.compile(r"\[(?P<words>[^\]]*)\]\((?P<target>\.\./[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")
_DRAWING = re.compile(r'<img [^>]*src="(?P<source>[^"]*assets/[\w-]+\.svg)"[^>]*>')


def _root(config: Any) -> Path:
    return Path(config.config_file_path).parent


def on_files(files: Any, config: Any) -> Any:
    """Add the page of configs."""
    parts = [
        "# Configs\n",
        "The files of `configs/`, each of which runs as it is; [recipes](recipes.md) tell when to "
        "use which.\n",
    ]
    recipes = (Path(config.docs_dir) / "recipes.md").read_text(encoding="utf-8")
    # In the order of the recipes, which begin with the simplest.
    for path in sorted(
        (_root(config) / "configs").glob("*.yml"), key=lambda path: recipes.index(path.name)
    ):
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
        # What the file says of itself reads better as a sentence than as a comment.
        said = list(takewhile(lambda line: line.startswith("#"), lines))
        parts += [
            f"## {path.name} {{ #{path.stem} }}\n",
            " ".join(line.lstrip("# ") for line in said) + "\n",
            "\n".join(["```yaml", *lines[len(said) :], "```\n"]),
        ]
    files.append(File.generated(config, CONFIGS, content="\n".join(parts)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links that leave `docs/` to where their content is on the site."""
    here = posixpath.dirname(page.file.src_uri)

    def within_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", here, link["target"]))
        if target.startswith("docs/"):
            return link[0]
        if not (_root(config) / target).exists():
            LOG.warning("%s links to %s, which does not exist", page.file.src_uri, target)
        if target == "README.md":
            return f"[{link['words']}]({posixpath.relpath('index.md', here or '.')})"
        folder, _, name = target.partition("/")
        if folder == "configs":
            anchor = f"#{name.removesuffix('.yml')}" if name else ""
            return f"[{link['words']}]({posixpath.relpath(CONFIGS, here or '.')}{anchor})"
        return link["words"]

    return _LINK.sub(within_site, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Put drawings into the page."""

    def drawn(image: re.Match[str]) -> str:
        name = posixpath.basename(image["source"])
        return (Path(config.docs_dir) / "assets" / name).read_text(encoding="utf-8")

    return _DRAWING.sub(drawn, html)
