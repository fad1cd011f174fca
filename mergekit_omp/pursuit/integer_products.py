"""Products of 8-bit integers, at the full rate of a processor that has AVX512-VNNI.

A tile of atoms is packed once, in the order in which the instruction reads it; its products with a
few residuals then stay in registers until they are whole. What comes out is small enough to be
looked at while it is in the nearest cache, so that no matrix of products ever exists.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int8, Int32, UInt8
from torch import Tensor

from mergekit_omp.pursuit import compiled
from mergekit_omp.pursuit.compiled import instruction
from mergekit_omp.pursuit.processor import has_instructions
from mergekit_omp.pursuit.register_tiles import (
    COLUMNS,
    ROWS,
    VECTOR,
    Arithmetic,
    arrays_of,
    emit,
    named,
)
from mergekit_omp.pursuit.rounding import SHIFT

FOUR = 4
"""Dimensions in a step: each sum takes the products of so many unsigned and signed bytes."""
ATOMS = COLUMNS
"""Atoms in a tile."""
RESIDUALS = ROWS
"""Residuals at a time."""


def available() -> bool:
    """Whether `multiply` can run here."""
    return compiled.AVAILABLE and has_instructions("avx512_vnni")


def steps(dim: int) -> int:
    """Fours of dimensions, the last filled up with zeros."""
    return -(-dim // FOUR)


def pack(
    atoms: Int8[Tensor, "atoms dim"],
) -> tuple[Int8[Tensor, "tiles steps 48 4"], Int32[Tensor, "tiles 48"]]:
    """Atoms in tiles, and what to add to their products to make up for `SHIFT`.

    The last tile is filled up with zeros.
    """
    count, dim = atoms.shape
    tiles = -(-count // ATOMS)
    padded = atoms.new_zeros(tiles * ATOMS, steps(dim) * FOUR)
    padded[:count, :dim] = atoms
    packed = padded.view(tiles, ATOMS, steps(dim), FOUR).transpose(1, 2).contiguous()
    sums = padded.sum(dim=1, dtype=torch.int32)
    return packed, (-SHIFT * sums).view(tiles, ATOMS)


def rows_for(residuals: int, dim: int) -> UInt8[Tensor, "rows dims"]:
    """Room for the integers of some residuals, in whole groups and whole fours of dimensions."""
    rows = -(-residuals // RESIDUALS) * RESIDUALS
    return torch.full((rows, steps(dim) * FOUR), SHIFT, dtype=torch.uint8)


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    from llvmlite import ir

    residuals, tile, correction, limits, out = arrays_of(context, builder, signature, arguments)
    word = ir.IntType(32)
    vector = ir.VectorType(word, VECTOR)

    def multiply_add(builder: Any, total: Any, spread: Any, part: Any) -> Any:
        # An older signature; releases of LLVM that know another translate it.
        dot = named(builder, "llvm.x86.avx512.vpdpbusd.512", vector, [vector] * 3)
        return builder.call(dot, [total, spread, part])

    def absolute(builder: Any, value: Any) -> Any:
        function = named(builder, "llvm.abs.v16i32", vector, [vector, ir.IntType(1)])
        return builder.call(function, [value, ir.IntType(1)(0)])

    def compare(builder: Any, how: str, left: Any, right: Any) -> Any:
        return builder.icmp_signed(how, left, right)

    arithmetic = Arithmetic(word, multiply_add, absolute, compare)
    steps = builder.extract_value(tile.shape, 0)
    return emit(builder, arithmetic, residuals, tile, steps, correction, limits, out)


@instruction
def multiply(typing, residuals, tile, correction, limits, out):  # type: ignore[no-untyped-def]
    """out (8, 48), int32 = products of residuals (8, dims), uint8, and a tile, int8.

    Returns the residuals, as bits, that have a product of at least their limit in magnitude; where
    there is none, nothing is written. A processor without AVX512-VNNI cannot compile it.
    """
    from numba import types

    return types.int32(residuals, tile, correction, limits, out), _emit
