"""Compiled kernels are kept where they can be, and a merge goes on where they cannot."""

from __future__ import annotations

import inspect
import logging
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mergekit_omp
from mergekit_omp.kernels import compiled

if compiled.AVAILABLE:
    from mergekit_omp.kernels import kernel_cache

PACKAGE = mergekit_omp.__name__

pytestmark = pytest.mark.skipif(not compiled.AVAILABLE, reason=f"{compiled.obstacle()}")


def twice(value):  # type: ignore[no-untyped-def]
    return value * 2


def fresh() -> Any:
    """A kernel as another process has it: not loaded yet."""
    return compiled.kernel(twice)


def loaded(made: Any) -> bool:
    """Whether a kernel that was called came from the disk."""
    return bool(made._cache_hits)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_a_kernel_is_compiled_once(folder: Path) -> None:
    first, second = fresh(), fresh()
    assert first(4) == 8 and not loaded(first)
    assert len(list(folder.iterdir())) == 1
    assert second(5) == 10 and loaded(second)
    assert second(1.5) == 3.0
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: b"\x80\x04garbage" * 1000,
    ],
    ids=["empty", "no digest", "half", "one bit", "garbage"],
)
def test_a_damaged_file_is_written_anew(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    fresh()(4)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert fresh()(4) == 8
    healed = fresh()
    assert healed(4) == 8 and loaded(healed)


def test_a_full_disk_costs_one_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        with caplog.at_level(logging.WARNING):
            assert fresh()(4) == 8
            assert fresh()(2.5) == 5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (message,) = caplog.messages
    assert message.startswith(f"compiled kernels cannot be kept in {folder} (")
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_made_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING):
        assert fresh()(4) == 8
    (message,) = caplog.messages
    assert "NUMBA_CACHE_DIR may name another folder" in message


def test_any_change_to_a_kernels_file_compiles_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = [plain for name, (_, plain) in compiled.KERNELS.items() if name.startswith(PACKAGE)]
    for file in {inspect.getfile(plain) for plain in ours}:
        assert Path(file).read_bytes() in kernel_cache.sources()
    fresh()(4)
    changed = kernel_cache.sources() + b"#"
    monkeypatch.setattr(kernel_cache, "sources", lambda: changed)
    again = fresh()
    assert again(4) == 8 and not loaded(again)


def test_nothing_is_kept_in_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    package = Path(mergekit_omp.__file__).parent
    assert package not in kernel_cache.folder().parents
    assert not list(package.rglob("*.nb[ic]")) and not list(package.rglob("*.kernel"))


def test_where_progress_is_shown_compiling_is_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with compiled.telling(True):
        fresh()(4)
        fresh()(4.5)
    told = capsys.readouterr().err
    assert told.count("compiling, once: kernels") == 1
    assert str(folder) in told
