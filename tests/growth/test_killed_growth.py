"""`mergekit-omp grow` that is killed: a whole model is there, or none that loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from merges import swap

from benchmarks.reliability import GROW, Study, World, killed_at, operations


@pytest.fixture(scope="module")
def study(models: Any, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    base = models("lost", "byte_level", hidden=16, layers=1)
    donor = models("donor", "sentencepiece_bpe", hidden=16, layers=1)
    (folder / "base").symlink_to(base)
    config = swap(folder / "base", donor, "mean")
    return Study.of(World(folder, (config, config)), (0, GROW))


def test_a_killed_growth(study: Study, tmp_path: Path) -> None:
    """At moments before, in and after the move out of the stage."""
    out = tmp_path / "out"
    total = operations(study.world, GROW, out)
    found = set()
    for back in (total // 2, 4, 0):
        study.prepared(out, None)
        killed_at(study.world, GROW, out, total - back)
        verdict = study.judge("killed", out, GROW, None, None)
        assert verdict in ("none", "new"), (back, verdict)
        found.add(verdict)
        assert not study.merges_again(out, GROW).startswith("WRONG")
    assert found == {"none", "new"}
