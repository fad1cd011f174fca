"""Blocks of the missing tokens, worked on apart, make what all of them together make."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from approximation_world import LETTERS, segmenter
from hypothesis import assume, given
from hypothesis import strategies as st

from mergekit_omp.approximation import MissingRows, Part, Texts
from mergekit_omp.approximation.base import AnchorCoding, Approximation
from mergekit_omp.approximation.chunks import WORKING_MEMORY, chunks, strips
from mergekit_omp.approximation.registry import APPROXIMATIONS
from mergekit_omp.approximation.shares import FEWEST
from mergekit_omp.pursuit import Code, SparseCode
from mergekit_omp.pursuit.choice import choose
from mergekit_omp.pursuit.cuts import BLOCK
from mergekit_omp.pursuit.lockstep import in_batches
from mergekit_omp.pursuit.problem import Problem, prepare
from mergekit_omp.transplant.blocks import cut
from mergekit_omp.transplant.row_plan import CodingRows

MISSING, ANCHORS = 2 * BLOCK + 100, FEWEST + 40
DONOR_DIM, OTHER_DIM, BASE_DIM = 40, 24, 20

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("omp", {"k": 5}),
    ("omp", {"k": 5, "search": "reference", "center": True}),
    ("omp", {"k": 5, "search": "reference", "memory": 20_000_000}),
    ("omp", {"k": 5, "search": "fast", "normalize_atoms": True}),
    ("knn", {"weights": "least_squares"}),
    ("knn", {"metric": "euclidean", "weights": "inverse_distance"}),
    ("focus", {}),
    ("wechsel", {}),
    ("kriging", {}),
    ("kriging", {"adapt": False, "ridge": 0.1}),
]


class World:
    """A donor whose first tokens are missing in the base, and whose others are anchors."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(2)
        count = MISSING + ANCHORS
        common = torch.randn(count, 6, generator=draw)
        self.donor, self.other, base = (
            (common @ torch.randn(6, dim, generator=draw) + torch.randn(count, dim, generator=draw))
            for dim in (DONOR_DIM, OTHER_DIM, BASE_DIM)
        )
        # Some are equal to anchors, or to nothing.
        self.donor[:3], self.donor[BLOCK : BLOCK + 3] = self.donor[MISSING : MISSING + 3], 0
        self.base = torch.cat([base[MISSING:], base[: len(LETTERS)]])
        letters = np.array([letter.decode() for letter in LETTERS])
        picks = np.random.default_rng(0)
        words = dict.fromkeys(
            "".join(picks.choice(letters, size)).encode()
            for size in picks.integers(2, 8, 3 * count)
        )
        donor = [*words][:count]
        assert len(donor) == count
        own: list[bytes | None] = [*donor[MISSING:], *LETTERS]
        self.coding = CodingRows(
            targets=np.arange(MISSING),
            anchors=np.arange(MISSING, count),
            anchor_rows=np.arange(ANCHORS),
            texts=Texts(donor[:MISSING], own, donor, segmenter(own), segmenter(donor)),
            progress=False,
        )

    def made(self, method: Approximation, coding: CodingRows) -> tuple[Any, dict[str, Any]]:
        """The rows or the code, and what the method told."""
        inputs = coding.inputs(method, self.donor.clone(), self.other.clone())
        told = {"in_force": inputs.in_force, "row_fit": inputs.row_fit}
        if isinstance(method, AnchorCoding):
            return method.encode(inputs), told
        return method.approximate(MissingRows(Part.HEAD, self.base, inputs)), told


@pytest.fixture(scope="module")
def small_world() -> World:
    return World()


def tensors(made: Code | torch.Tensor) -> dict[str, Any]:
    return made.to_tensors() if isinstance(made, Code) else {"rows": made}


def test_every_method_that_works_in_blocks_is_tried() -> None:
    in_blocks = {name for name, method in APPROXIMATIONS.items() if method().in_blocks}
    assert in_blocks == {name for name, _ in SETTINGS}


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_the_number_of_blocks_does_not_change_a_bit(
    name: str, settings: dict[str, Any], small_world: World
) -> None:
    method = APPROXIMATIONS[name](**settings)
    whole, told = small_world.made(method, small_world.coding)
    for blocks in (2, 3):
        parts = cut(MISSING, blocks)
        assert len(parts) == blocks
        texts = small_world.coding.texts
        assert texts is not None
        found = [
            small_world.made(method, block)
            for block in small_world.coding.blocks(parts, texts.blocks(parts))
        ]
        joined = [made for made, _ in found]
        together = type(whole).join(joined) if isinstance(whole, Code) else torch.cat(joined)
        for key, values in tensors(whole).items():
            same = tensors(together)[key]
            assert torch.equal(same, values) if isinstance(values, torch.Tensor) else same == values
        for _, other in found:
            assert other["in_force"] == told["in_force"]
        for key, fit in told["row_fit"].items():
            fits = torch.cat([other["row_fit"][key] for _, other in found])
            assert torch.equal(fits.nan_to_num(-1), fit.nan_to_num(-1))


@pytest.mark.parametrize("blocks", [1, 2, 3, 8])
@pytest.mark.parametrize("missing", [0, 1, BLOCK, BLOCK + 1, 5 * BLOCK - 1, 27 * BLOCK + 5])
def test_blocks_are_whole_units_of_nearly_the_same_size(missing: int, blocks: int) -> None:
    parts = cut(missing, blocks)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(missing))
    assert all(part.start % BLOCK == 0 for part in parts)
    sizes = [-(-(part.stop - part.start) // BLOCK) for part in parts]
    assert len(parts) == max(1, min(blocks, -(-missing // BLOCK)))
    assert max(sizes) - min(sizes) <= 1


def within(slices: list[slice], part: slice) -> list[slice]:
    """Those that lie in a part, counted from its start."""
    own = [s for s in slices if part.start <= s.start < part.stop]
    return [slice(s.start - part.start, s.stop - part.start) for s in own]


@given(
    missing=st.integers(1, 9 * BLOCK),
    blocks=st.integers(1, 9),
    each=st.integers(1, 2 * WORKING_MEMORY),
    work=st.sampled_from([chunks, strips]),
)
def test_a_block_is_worked_on_in_the_pieces_that_the_whole_has_there(
    missing: int, blocks: int, each: int, work: Callable[..., Iterator[slice]]
) -> None:
    assume(WORKING_MEMORY // each > 64 or missing < BLOCK)  # or they are too many to list
    whole = list(work(missing, each))
    for part in cut(missing, blocks):
        assert list(work(part.stop - part.start, each)) == within(whole, part)


@given(
    batch=st.sampled_from([1 << power for power in range(5, 13)]),
    hard=st.sets(st.integers(0, 3 * BLOCK), min_size=1, max_size=300),
)
def test_targets_of_two_blocks_are_never_in_one_batch(batch: int, hard: set[int]) -> None:
    chosen = torch.tensor(sorted(hard))
    problem = prepare(chosen[:, None].double(), torch.ones(1, 1, dtype=torch.float64), 1, None)
    batches: list[list[int]] = []

    def solve(part: Problem) -> SparseCode:
        batches.append(part.targets[:, 0].long().tolist())
        return SparseCode.empty(part.targets, 1)

    in_batches(problem, solve, batch, cuts=torch.bincount(chosen // BLOCK).tolist())
    batches.sort()  # threads solve them at the same time
    assert [target for some in batches for target in some] == sorted(hard)
    for block in range(4):
        own = [target for target in sorted(hard) if target // BLOCK == block]
        expected = [own[at : at + batch] for at in range(0, len(own), batch)]
        assert [some for some in batches if some[0] // BLOCK == block] == expected


@pytest.mark.parametrize("search", ["reference", "screened", "gram"])
@given(megabytes=st.integers(1, 2000))
def test_batches_of_a_pursuit_fill_a_block(search: str, megabytes: int) -> None:
    rows = torch.ones(1, 1)
    problem = Problem(
        targets=rows.expand(20_000, 512),
        atoms=rows.expand(10_000, 512),
        target_norms=rows[0].expand(20_000),
        atom_norms=rows[0].expand(10_000),
        usable=torch.ones(1, dtype=torch.bool).expand(10_000),
        sparsity=16,
        tolerance=1e-5,
    )
    try:
        plan = choose(problem, search, megabytes << 20)
    except ValueError:
        return  # it does not fit, or cannot run here
    assert BLOCK % plan.batch == 0


PROGRAM = """
import json, os, re, sys
from pathlib import Path
import numpy as np, torch
from mergekit_omp.approximation import MissingRows, Part, Texts
from mergekit_omp.approximation.registry import APPROXIMATIONS
from mergekit_omp.transplant.blocks import cut
from mergekit_omp.transplant.row_plan import CodingRows

missing, anchors = 8192, 4000

def resident(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def work(name, missing, blocks):
    coding = CodingRows(
        targets=np.arange(missing), anchors=np.arange(missing, missing + anchors),
        anchor_rows=np.arange(anchors), progress=False,
        texts=Texts([None] * missing, [None] * anchors, [], lambda _: [], lambda _: []),
    )
    method, found = APPROXIMATIONS[name](), []
    parts = cut(missing, blocks)
    for part, block in zip(parts, coding.blocks(parts, coding.texts.blocks(parts))):
        inputs = block.inputs(method, donor)
        if name == "kriging":
            rows[part] = method.approximate(MissingRows(Part.HEAD, base, inputs))
        else:
            found.append(method.encode(inputs))
    return found

def measured(name, blocks):
    work(name, 10, 1)  # loads what is compiled
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    made = work(name, missing, blocks)
    print(json.dumps([name, blocks, resident("VmHWM") - before]), flush=True)

for name in ("omp", "kriging"):
    for blocks in (1, 2):
        # Each in a process that has worked on nothing before: threads do not survive a fork.
        if (child := os.fork()) == 0:
            draw = torch.Generator().manual_seed(1)
            donor = torch.randn(missing + anchors, 128, generator=draw)
            base, rows = torch.randn(anchors, 128, generator=draw), torch.ones(missing, 128)
            measured(name, blocks)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells how much was taken"
)
def test_blocks_one_after_another_take_no_more_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        # So that the C library gives back what is freed.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    taken = {
        (name, blocks): peak for name, blocks, peak in map(json.loads, done.stdout.split("\n")[:-1])
    }
    for name in ("omp", "kriging"):
        assert taken[name, 2] <= 1.05 * taken[name, 1]
