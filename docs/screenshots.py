"""Makes the pictures of the report in docs/images/ from the demo's models.

    python docs/screenshots.py

It needs Debian's chromium, the extra `report`, and Pillow (which matplotlib brings). The demo's
models are trained where they are not in the cache yet.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mergekit_omp.demo.models import default_cache_dir
from mergekit_omp.demo.run import RUNS, run_demo

IMAGES = Path(__file__).parent / "images"
COLOURS = 256
"""Enough for flat pages, and half of the size."""


@dataclass(frozen=True)
class Shot:
    """A part of the page: `top` and `height` in CSS pixels, as wide as the window."""

    name: str
    width: int
    top: int
    height: int
    dark: bool = False


SHOTS = (
    Shot("report-light", 1280, 0, 1000),
    Shot("report-dark", 1280, 2150, 1000, dark=True),
    Shot("report-phone", 390, 0, 844),
)


def main() -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        sys.exit("There is no chromium to take pictures with. Install it: apt install chromium.")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "demo"
        folder.mkdir()
        run_demo(default_cache_dir(), folder, runs=[run for run in RUNS if run.label == "kriging"])
        page = folder / "kriging" / "tokenizer_transplant.html"
        # Paths in the demo's configs are relative to its folder.
        command = str(Path(sys.executable).with_name("mergekit-omp"))
        run([command, "report", "kriging", "--compare"], folder)
        for shot in SHOTS:
            path = take(browser, page, shot, Path(scratch))
            print(f"{path} ({path.stat().st_size / 1000:.0f} kB)")


def take(browser: str, page: Path, shot: Shot, scratch: Path) -> Path:
    """Renders the page in a frame, since a window cannot be as narrow as a phone."""
    tall = shot.top + shot.height
    frame = scratch / f"{shot.name}.html"
    frame.write_text(
        f'<body style="margin:0"><iframe src="{page.as_uri()}" width="{shot.width}" '
        f'height="{tall}" style="border:0" scrolling="no"></iframe>',
        encoding="utf-8",
    )
    whole = scratch / f"{shot.name}.png"
    run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={scratch / 'profile'}",
            f"--window-size={max(shot.width, 500)},{tall}",
            f"--blink-settings=preferredColorScheme={0 if shot.dark else 1}",
            f"--screenshot={whole}",
            frame.as_uri(),
        ]
    )
    path = IMAGES / f"{shot.name}.png"
    with Image.open(whole) as picture:
        part = picture.convert("RGB").crop((0, shot.top, shot.width, tall))
        part.quantize(COLOURS).save(path, optimize=True)
    return path


def run(command: Sequence[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr[-500:]}")


if __name__ == "__main__":
    main()
