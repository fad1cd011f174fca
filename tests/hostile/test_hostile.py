"""Hostile and broken inputs: one sentence that names the culprit, or a right result.

Every case runs the commands in forks of one warm process, with a limit of memory and of time. A
further case is a line in one of the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from hostile import cases
from hostile.client import MEMORY, SECONDS, Ended, Warm
from hostile.scene import Case, Scene, make_world

TABLE = {case.name: case for case in cases.ALL}
FRAME = "/mergekit_omp/"


@pytest.fixture(scope="session")
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Scene, dict[str, Future[Ended]]]]]:
    """All cases that were asked for, under way; a test waits for its own."""
    root = tmp_path_factory.mktemp("hostile")
    world = make_world(Path(request.config.cache.mkdir("hostile")))
    warm = Warm(root)
    merged = root / "merged"
    merged.mkdir()
    whole = Scene(world, merged)
    made = warm.run(
        "mergekit-yaml", str(whole.write_config()), "out", "--quiet", folder=merged
    ).result()
    assert made.status == 0, made.text
    found = {}
    for item in request.session.items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")
        if name not in TABLE or item.function is not test_hostile:
            continue
        folder = root / f"{len(found)}"
        folder.mkdir()
        scene = Scene(world, folder, merged)
        found[name] = scene, start(warm, scene, TABLE[name])
    yield found
    warm.close()


def start(warm: Warm, scene: Scene, case: Case) -> dict[str, Future[Ended]]:
    case.edit(scene)
    started = {}
    for command in case.commands:
        more = scene.arguments.get(command, [])
        if command == "mergekit-yaml":
            arguments = [str(scene.write_config()), "out", "--quiet", *more]
        elif command == "inspect":
            arguments = [str(scene.write_config()), *more]
        else:
            arguments = more
        check = "out" if command == "mergekit-yaml" and case.says is None else ""
        started[command] = warm.run(command, *arguments, folder=scene.folder, check=check)
    return started


def test_no_two_cases_have_one_name() -> None:
    assert len(TABLE) == len(cases.ALL)


@pytest.mark.parametrize("name", TABLE)
def test_hostile(name: str, started: dict[str, tuple[Scene, dict[str, Future[Ended]]]]) -> None:
    case, (scene, futures) = TABLE[name], started[name]
    errors = {}
    for command, future in futures.items():
        ended = future.result()
        where = f"{name}: {command}\n{ended.text[-3000:]}"
        assert ended.status >= 0, f"{where}\nended by signal {-ended.status}"
        assert ended.seconds < SECONDS, where
        assert ended.bytes < MEMORY, f"{where}\ntook {ended.bytes / 1e9:.1f} GB"
        assert FRAME not in ended.text, where
        assert all(line.isprintable() for line in ended.text.split("\n")), where
        if case.says is None:
            assert ended.status == 0, where
            continue
        if case.mergekits:
            assert ended.status == 1, where
            continue
        assert ended.status in (1, 2), where
        assert "Traceback" not in ended.text, where
        assert ended.error.startswith("Error: "), where
        errors[command] = ended.error
        for part in case.says:
            wanted = part.format(folder=scene.folder, **_paths(scene))
            assert wanted in ended.error, f"{where}\nlacks {wanted!r}"
    if "mergekit-yaml" in errors:
        written = scene.folder / "out"
        assert not (written / "config.json" if case.late else written).exists(), "it was written"
        assert errors.get("inspect", errors["mergekit-yaml"]) == errors["mergekit-yaml"]


def _paths(scene: Scene) -> dict[str, str]:
    return {
        "base": str(scene.folder / "base"),
        "donor": str(scene.folder / "donor"),
        "out": str(scene.folder / "merged"),
    }
