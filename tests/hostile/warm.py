"""A warm process that runs commands in forks of itself, each with limits of memory and time.

Everything is imported once, so that a command costs a fork. Requests and answers are lines of
JSON. A fork gets no threads of its parent, so the parent starts none.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from hostile.outputs import check

AT_ONCE = 2
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in what the system counts a process's peak memory in."""


def load_libraries() -> None:
    """Import all that the commands import, so that no fork has to."""
    import torch

    import mergekit_omp

    for module in pkgutil.walk_packages(mergekit_omp.__path__, "mergekit_omp."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    torch.set_num_threads(1)


def run(command: str, arguments: list[str]) -> None:
    """One command, as its entry point runs it."""
    if command == "mergekit-yaml":
        from mergekit.scripts.run_yaml import main

        main.main(args=arguments, prog_name=command)
    else:
        from mergekit_omp.cli import main as ours

        ours.main(args=[command, *arguments], prog_name="mergekit-omp")


def child(request: dict[str, Any]) -> None:
    """The fork: its output goes to a file, its limits are set, and it never returns."""
    file = os.open(request["text"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(request["folder"])
    if sys.platform == "linux":  # macOS has no such limit: there the peak alone is looked at
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + request["bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    status = 0
    try:
        try:
            run(request["command"], request["arguments"])
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        if not status and request["check"]:
            check(Path(request["check"]))
    except BaseException:  # noqa: BLE001 (what the interpreter would do at its top)
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def serve() -> None:
    """Answer requests until the input ends."""
    load_libraries()
    print(json.dumps({"ready": True}), flush=True)
    running: dict[int, tuple[dict[str, Any], float]] = {}
    waiting: list[dict[str, Any]] = []
    unread = b""
    open_ = True
    while open_ or running or waiting:
        ready, _, _ = select.select(
            [0] if open_ else [], [], [], 0.01 if running or waiting else None
        )
        if ready:
            data = os.read(0, 1 << 16)
            open_ = bool(data)
            *lines, unread = (unread + data).split(b"\n")
            waiting += [json.loads(line) for line in lines]
        while waiting and len(running) < AT_ONCE:
            request = waiting.pop(0)
            pid = os.fork()
            if not pid:
                child(request)
            running[pid] = (request, time.monotonic())
        for pid, (request, started) in list(running.items()):
            seconds = time.monotonic() - started
            if seconds > request["seconds"]:
                os.kill(pid, signal.SIGKILL)
            found, status, usage = os.wait4(pid, os.WNOHANG)
            if found:
                del running[pid]
                answer = {
                    "id": request["id"],
                    "status": os.waitstatus_to_exitcode(status),
                    "seconds": seconds,
                    "bytes": usage.ru_maxrss * RSS_UNIT,
                }
                print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
