"""Runs that are killed, and disks that are full: what the output directory holds afterwards.

A small real merge runs in a forked child of this process, into a fresh directory or into one that
holds an earlier merge of another layout and vocabulary, and is killed by SIGKILL at its n-th
operation on the output's files, or by an alarm at a moment drawn at random. Then the directory is loaded with
transformers and with mergekit. It must be the old model, the new one, or none that loads, with the
user's own file as it was; and the next merge into it must succeed and leave nothing behind.
Disks are tmpfs mounts of too few bytes (as root), else a limit on the size of a file. `--growing`
does so with `mergekit-omp grow`, which refuses a directory where a killed run has left files.

Run from the repository: python benchmarks/reliability.py --kills 200 --full-disks 20
"""

from __future__ import annotations

import os
from functools import partial

# Children are forked: no pool of threads may run in this process before.
os.environ.update(
    OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TQDM_DISABLE="1"
)

import argparse
import hashlib
import json
import pickle
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
import transformers
from click.testing import CliRunner
from mergekit.common import ModelReference
from mergekit.io import ShardedTensorIndex
from mergekit.io.lazy_tensor_loader import LazyTensorLoader
from merges import merge_here, swap
from small_models import save_model
from trained_tokenizers import byte_level, sentencepiece_bpe
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import mergekit_omp.growth  # noqa: F401  so that grown models load

GROW = 2  # the number of the job that grows what the first merge makes
OWN_FILE, OWN_TEXT = "notes.txt", "the user's own"
NONE = "none"
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate")


@dataclass(frozen=True)
class World:
    """Two merges of other vocabularies, file layouts and chat templates, by one base."""

    folder: Path
    configs: tuple[dict[str, Any], dict[str, Any]]
    options: tuple[tuple[str, ...], tuple[str, ...]] = ((), ("--out-shard-size", "4K"))

    @classmethod
    def build(cls, folder: Path) -> World:
        base = save_model(folder / "base", sentencepiece_bpe(600), hidden=8, layers=1)
        configs = []
        for i, size in enumerate((400, 500)):
            tokenizer = byte_level(size)
            if not i:
                tokenizer.chat_template = "{{ messages[0]['content'] }}"
            donor = save_model(folder / f"donor{i}", tokenizer, hidden=8, layers=1, seed=i + 1)
            configs.append(swap(base, donor, "zero"))
        return cls(folder, (configs[0], configs[1]))

    def merge(self, which: int, out: Path) -> int:
        """Run one of the two merges; its exit status."""
        if which == GROW:
            return self.grow(out)
        return merge_here(self.configs[which], out, *self.options[which]).status

    def grow(self, out: Path) -> int:
        """Give what the first merge makes tables of n-grams, and rows of its base."""
        from mergekit_omp.cli import main

        words = ["grow", str(self.folder / "whole0"), str(out), "--over-encoding", "--rows", "9001"]
        words += ["--restore", str(self.folder / "base")]
        return int(CliRunner().invoke(main, words).exit_code)


def in_a_child(work: Callable[[], Any], limit: float = 600) -> tuple[int, Any]:
    """(wait status, result) of `work` in a forked child, whose output is dropped."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        status = 1
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            torch.set_num_threads(1)
            result = pickle.dumps(work())
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(result)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        content = pipe.read()
    _, waited = os.waitpid(pid, 0)
    return waited, pickle.loads(content) if content else None


def on_every_operation(out: Path, act: Callable[[int], None]) -> list[int]:
    """Call `act` with the number of each operation on files below `out`, before it happens."""
    count = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and arguments and str(arguments[0]).startswith(str(out)):
            count[0] += 1
            act(count[0])

    sys.addaudithook(hook)
    return count


def operations(world: World, which: int, out: Path) -> int:
    """How many operations on files a whole merge into `out` takes."""

    def work() -> int:
        count = on_every_operation(out, lambda _: None)
        world.merge(which, out)
        return count[0]

    return int(in_a_child(work)[1])


def killed_at(world: World, which: int, out: Path, operation: int) -> None:
    """A merge that is killed before an operation on its files."""

    def work() -> None:
        on_every_operation(
            out, lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == operation else None
        )
        world.merge(which, out)

    in_a_child(work)


def killed_after(world: World, which: int, out: Path, seconds: float) -> None:
    """A merge that is killed at a moment, whatever it is doing."""

    def work() -> None:
        # The default action of SIGALRM ends the process at once, in compiled code as well.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        world.merge(which, out)

    in_a_child(work)


def fingerprint(path: Path) -> str:
    """A hash of all that readers take from a directory, or `NONE` where no model can be loaded."""
    if not path.is_dir():
        return NONE
    digest = hashlib.sha256()

    def add(name: str, tensor: torch.Tensor) -> None:
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())

    try:
        AutoConfig.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path)
    except (OSError, ValueError, KeyError, RuntimeError):
        # mergekit reads a config before it reads weights.
        with suppress(OSError, ValueError):
            ModelReference.model_validate(str(path)).config()
            return "a config that mergekit reads, over weights that do not load"
        return NONE
    for name, tensor in model.state_dict().items():
        add(name, tensor)
    loader = LazyTensorLoader(ShardedTensorIndex.from_disk(str(path)))
    for name in sorted(loader.index.tensor_paths):
        add(name, loader.get_tensor(name))
    tokenizer = AutoTokenizer.from_pretrained(path)
    settings = {
        "vocabulary": tokenizer.backend_tokenizer.to_str(),
        "template": tokenizer.chat_template,
        "roles": tokenizer.special_tokens_map,
        "config": model.config.to_dict() | {"_name_or_path": ""},
        "generation": model.generation_config.to_dict(),
    }
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


@dataclass
class Study:
    """What became of the directories, counted by situation."""

    world: World
    old: Path
    whole: dict[int, str]
    """The fingerprint of what each job makes."""
    found: dict[str, Counter[str]]

    @classmethod
    def of(cls, world: World, jobs: Sequence[int] = (0, 1)) -> Study:
        marks = {}
        for job in jobs:
            out = world.folder / f"whole{job}"
            assert in_a_child(partial(world.merge, job, out))[1] == 0, job
            marks[job] = in_a_child(partial(fingerprint, out))[1]
        assert NONE not in marks.values() and len(set(marks.values())) == len(marks)
        return cls(world, world.folder, marks, {})

    def prepared(self, out: Path, old: int | None) -> Path:
        """`out` with the earlier merge `old` and a file of the user's, or without both."""
        shutil.rmtree(out, ignore_errors=True)
        if old is not None:
            shutil.copytree(self.world.folder / f"whole{old}", out)
            (out / OWN_FILE).write_text(OWN_TEXT)
        return out

    def judge(
        self, situation: str, out: Path, new: int, old: int | None, status: int | None
    ) -> str:
        """Count what `out` holds; `status` is the merge's, where it was not killed."""
        found = in_a_child(lambda: fingerprint(out))[1] or "the reader itself died"
        names = {self.whole[new]: "new", NONE: NONE}
        if old is not None:
            names[self.whole[old]] = "old"
        verdict = names.get(found, f"WRONG: {found}")
        if old is not None and (out / OWN_FILE).read_text() != OWN_TEXT:
            verdict = "WRONG: the user's file is gone"
        if status == 0 and verdict != "new":
            verdict = f"WRONG: success, and {verdict}"
        if status not in (0, None) and verdict != ("old" if old is not None else NONE):
            verdict = f"WRONG: failed, and {verdict}"
        self.found.setdefault(situation, Counter())[verdict] += 1
        return verdict

    def merges_again(self, out: Path, new: int) -> str:
        """What the next merge leaves: nothing but its own and the user's files, as a new model."""
        status = in_a_child(lambda: self.world.merge(new, out))[1]
        if new == GROW and status != 0:
            return self.is_left_alone(out)
        left = {path.name for path in out.glob("*")} - {OWN_FILE}
        expected = {path.name for path in (self.world.folder / f"whole{new}").iterdir()}
        verdict = "whole"
        if status != 0 or in_a_child(lambda: fingerprint(out))[1] != self.whole[new]:
            verdict = "WRONG: not the new model"
        elif left != expected:
            verdict = f"WRONG: {sorted(left ^ expected)}"
        what = "growing" if new == GROW else "a merge"
        self.found.setdefault(f"{what} after a killed one", Counter())[verdict] += 1
        return verdict

    def is_left_alone(self, out: Path) -> str:
        """Growing writes over nothing: it refuses a directory in which files are already."""
        mark = in_a_child(lambda: fingerprint(out))[1]
        verdict = {NONE: NONE, self.whole[GROW]: "new"}.get(mark, "WRONG: " + mark)
        if not set(os.listdir(out)) - {".mergekit-omp"}:
            verdict = "WRONG: refused, and nothing is there"
        self.found.setdefault("growing after a killed one, refused", Counter())[verdict] += 1
        return verdict


def kills(study: Study, count: int, rng: random.Random) -> None:
    """Half at operations, spread over all of them, and half at random moments."""
    merges = [(0, None), (1, None), (1, 0), (0, 1)]
    situations = [(GROW, None)] if GROW in study.whole else merges
    out = study.world.folder / "killed"
    for i, (new, old) in enumerate(situations):
        name = "killed, into a " + ("used directory" if old is not None else "fresh directory")
        if new == GROW:
            name = "growing, killed"
        share = count // len(situations) + (i < count % len(situations))
        if not share:
            continue
        by_operation = (share + 1) // 2
        total = operations(study.world, new, study.prepared(out, old))
        started = time.monotonic()
        in_a_child(partial(study.world.merge, new, study.world.folder / "timed"))
        whole = time.monotonic() - started
        for j in range(share):
            study.prepared(out, old)
            if j < by_operation:
                killed_at(study.world, new, out, 1 + j * total // by_operation)
            else:
                killed_after(study.world, new, out, rng.uniform(0.3, 1) * whole)
            verdict = study.judge(name, out, new, old, None)
            if j % 5 == 0 or (old is not None and verdict == NONE):
                study.merges_again(out, new)
        print(f"{name}: {total} operations on files, {share} kills", file=sys.stderr, flush=True)


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def full_disks(study: Study, count: int) -> None:
    """Disks with room for the old model and for less than the new one beside it."""
    disk = study.world.folder / "disk"
    disk.mkdir()
    for i in range(count):
        merges = ((1, 0), (0, 1), (1, None), (0, None))
        new, old = (GROW, None) if GROW in study.whole else merges[i % 4]
        needed = size(study.world.folder / f"whole{new}")
        held = size(study.world.folder / f"whole{old}") if old is not None else 0
        part = int(needed * (i + 0.5) / count)
        # A tmpfs counts pages, and some for directories.
        room = held + part + 16 * 4096 if held else part + 4096
        mounted = (
            os.geteuid() == 0
            and not subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)],
                capture_output=True,
                check=False,
            ).returncode
        )
        try:
            out = study.prepared(disk / "out", old)

            def work(
                out: Path = out, new: int = new, part: int = part, mounted: bool = mounted
            ) -> int:
                if not mounted:
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (part // 4, part // 4))
                # The config of the merge is written beside its output.
                return merge_into(study.world, new, out)

            waited, status = in_a_child(work)
            what = "growing, full disk" if new == GROW else "full disk"
            name = f"{what} ({'tmpfs' if mounted else 'limit on files'})"
            study.judge(name, out, new, old, status if waited == 0 else None)
            if (out / ".mergekit-omp").exists():
                study.found[name]["WRONG: litter"] += 1
        finally:
            if mounted:
                subprocess.run(["umount", str(disk)], check=True)
            shutil.rmtree(disk / "out", ignore_errors=True)


def merge_into(world: World, which: int, out: Path) -> int:
    """As `World.merge`, with the YAML on another disk than the output."""
    from mergekit.scripts.run_yaml import main
    from merges import write_config

    if which == GROW:
        return world.grow(out)
    path = write_config(world.folder / "full.yml", world.configs[which])
    result = CliRunner().invoke(main, [str(path), str(out), "--quiet", *world.options[which]])
    return int(result.exit_code)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="merges to kill (default: 200)")
    parser.add_argument("--full-disks", type=int, default=20, help="disks to fill (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: 0)")
    parser.add_argument("--growing", action="store_true", help="`grow` in the place of merges")
    chosen = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        waited, world = in_a_child(lambda: World.build(Path(folder)))
        assert waited == 0, "the models could not be made"
        study = Study.of(world, (0, GROW) if chosen.growing else (0, 1))
        kills(study, chosen.kills, random.Random(chosen.seed))
        full_disks(study, chosen.full_disks)
    print(f"{platform.platform()}, Python {platform.python_version()}\n")
    print("| situation | " + " | ".join(["tried", "old", "new", "none loads", "wrong"]) + " |")
    print("|---|" + "---:|" * 5)
    wrong = 0
    for situation, found in study.found.items():
        bad = sum(n for verdict, n in found.items() if verdict.startswith("WRONG"))
        wrong += bad
        cells = [found.total(), found["old"], found["new"] + found["whole"], found[NONE], bad]
        print(f"| {situation} | " + " | ".join(map(str, cells)) + " |")
    for found in study.found.values():
        for verdict, n in found.items():
            if verdict.startswith("WRONG"):
                print(f"{n} x {verdict}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
