"""Runs commands in forks of a warm process, from tests."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY = 4 << 30
"""Bytes that a command on tiny models may take beyond what the libraries take."""
SECONDS = 60


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    """Of the process; negative for a signal, such as -9 where its time was up."""
    text: str
    seconds: float
    bytes: int

    @property
    def error(self) -> str:
        """The last line that it printed."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        return lines[-1] if lines else ""


class Warm:
    """The process, and what was asked of it."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._ids = itertools.count()
        self._asked: dict[int, tuple[Future[Ended], Path]] = {}
        tests = Path(__file__).parent.parent
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("warm.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
            },
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def run(self, command: str, *arguments: str, folder: Path, check: str = "") -> Future[Ended]:
        """Have a command run; it may wait for others. `check`: the output that must be right."""
        number = next(self._ids)
        text = self._folder / f"{number}.txt"
        future: Future[Ended] = Future()
        self._asked[number] = future, text
        request: dict[str, Any] = {
            "id": number,
            "command": command,
            "arguments": list(arguments),
            "folder": str(folder),
            "check": check,
            "text": str(text),
            "bytes": MEMORY,
            "seconds": SECONDS,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return future

    def close(self) -> None:
        """End the process, when all that was asked has ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if "id" not in answer:
                continue
            future, text = self._asked.pop(answer["id"])
            said = text.read_text(errors="replace")
            future.set_result(Ended(answer["status"], said, answer["seconds"], answer["bytes"]))
        for future, _ in self._asked.values():
            future.set_exception(RuntimeError("the warm process ended"))
