"""Products of 8-bit integers, at the full rate of a processor that has AVX512-VNNI.

A tile of atoms is packed once, in the order in which the instruction reads it; its products with a
few residuals then stay in registers until they are whole: eight rows by three vectors of sixteen
atoms, with a step of the atoms and one number of a row, fill the 32 registers of AVX512. What comes
out is written only where an entry reaches its row's limit, and looked at while it is in the nearest
cache, so that no matrix of products ever exists.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int8, Int32, UInt8
from torch import Tensor

from mergekit_omp.pursuit.compiled import compiles_for, in_kernels, instruction, kernel
from mergekit_omp.pursuit.rounding import SHIFT

FOUR = 4
"""Dimensions in a step: each sum takes the products of so many unsigned and signed bytes."""
VECTOR, VECTORS = 16, 3
"""Sums in a register, and registers for a residual."""
ATOMS = VECTOR * VECTORS
"""Atoms in a tile."""
RESIDUALS = 8
"""Residuals at a time."""
WORD = 4
"""Bytes of a sum."""


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


Integers = UInt8[np.ndarray, "8 dims"]
Tile = Int8[np.ndarray, "steps 48 4"]
Correction = Int32[np.ndarray, "48"]
Bounds = Int32[np.ndarray, "8"]
Products = Int32[np.ndarray, "8 48"]


def multiply(
    residuals: Integers, tile: Tile, correction: Correction, limits: Bounds, out: Products
) -> int:
    """out = products of residuals and a tile, plus the correction.

    Returns the residuals, as bits, that have a product of at least their limit in magnitude; where
    there is none, nothing is written.
    """
    return multiply_plainly(residuals, tile, correction, limits, out)


@kernel
def multiply_plainly(
    residuals: Integers, tile: Tile, correction: Correction, limits: Bounds, out: Products
) -> int:
    """The same where there is no instruction for it."""
    products = np.empty((RESIDUALS, ATOMS), np.int32)
    mask = 0
    for row in range(RESIDUALS):
        for atom in range(ATOMS):
            total = correction[atom]
            for step in range(tile.shape[0]):
                for at in range(FOUR):
                    value = np.int32(residuals[row, step * FOUR + at])
                    total += value * np.int32(tile[step, atom, at])
            products[row, atom] = total
            if abs(total) >= limits[row]:
                mask |= 1 << row
    if mask:
        out[:] = products
    return mask


@instruction
def _emitted(typing, residuals, tile, correction, limits, out):  # type: ignore[no-untyped-def]
    from numba import types

    return types.int64(residuals, tile, correction, limits, out), _emit


@in_kernels(multiply)
def _multiply(residuals, tile, correction, limits, out):  # type: ignore[no-untyped-def]
    # LLVM ends the process where it has no such instruction.
    ours = _emitted if compiles_for("avx512vnni") else multiply_plainly
    return lambda residuals, tile, correction, limits, out: ours(
        residuals, tile, correction, limits, out
    )


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """The code of `multiply`, in LLVM's terms. The arrays are Numba's."""
    from llvmlite import ir

    residuals, tile, correction, limits, out = (
        context.make_array(kind)(context, builder, value)
        for kind, value in zip(signature.args, arguments, strict=True)
    )
    long, word = ir.IntType(64), ir.IntType(32)
    vector = ir.VectorType(word, VECTOR)
    undefined = ir.Constant(vector, ir.Undefined)

    def named(name: str, arguments: list[Any]) -> Any:
        known = builder.module.globals.get(name)
        return known or ir.Function(builder.module, ir.FunctionType(vector, arguments), name)

    # An older signature; releases of LLVM that know another translate it.
    dot = named("llvm.x86.avx512.vpdpbusd.512", [vector] * 3)
    absolute = named("llvm.abs.v16i32", [vector, ir.IntType(1)])

    def pointer(array: Any, kind: Any) -> Any:
        return builder.bitcast(array.data, kind.as_pointer())

    def load(base: Any, at: Any) -> Any:
        return builder.load(builder.gep(base, [at]), align=WORD)

    def words_apart(array: Any) -> Any:
        return builder.udiv(builder.extract_value(array.strides, 0), long(WORD))

    def in_all_lanes(value: Any) -> Any:
        first = builder.insert_element(undefined, value, word(0))
        lanes = ir.Constant(ir.VectorType(word, VECTOR), [0] * VECTOR)
        return builder.shuffle_vector(first, undefined, lanes)

    rows, across = pointer(residuals, word), words_apart(residuals)
    lines = [builder.gep(rows, [builder.mul(across, long(row))]) for row in range(RESIDUALS)]
    columns, down = pointer(tile, word), words_apart(tile)
    begun = [load(pointer(correction, vector), long(at)) for at in range(VECTORS)]
    before = builder.block
    loop, after = builder.append_basic_block("steps"), builder.append_basic_block("whole")
    builder.branch(loop)

    builder.position_at_end(loop)
    step = builder.phi(long)
    step.add_incoming(long(0), before)
    sums = [[builder.phi(vector) for _ in range(VECTORS)] for _ in range(RESIDUALS)]
    line = builder.bitcast(builder.gep(columns, [builder.mul(step, down)]), vector.as_pointer())
    parts = [load(line, long(at)) for at in range(VECTORS)]
    results = []
    for values, totals in zip(lines, sums, strict=True):
        spread = in_all_lanes(load(values, step))
        pairs = zip(totals, parts, strict=True)
        results.append([builder.call(dot, [total, spread, part]) for total, part in pairs])
    following = builder.add(step, long(1))
    step.add_incoming(following, loop)
    for totals, result in zip(sums, results, strict=True):
        for total, first, last in zip(totals, begun, result, strict=True):
            total.add_incoming(first, before)
            total.add_incoming(last, loop)
    steps = builder.extract_value(tile.shape, 0)
    builder.cbranch(builder.icmp_unsigned("<", following, steps), loop, after)

    builder.position_at_end(after)
    bounds, ends = pointer(limits, word), pointer(out, vector)
    mask = word(0)
    for row, result in enumerate(results):
        sizes = [builder.call(absolute, [value, ir.IntType(1)(0)]) for value in result]
        top = sizes[0]
        for size in sizes[1:]:
            top = builder.select(builder.icmp_signed(">", size, top), size, top)
        reached = builder.icmp_signed(">=", top, in_all_lanes(load(bounds, long(row))))
        lanes = builder.bitcast(reached, ir.IntType(VECTOR))
        some = builder.icmp_unsigned("!=", lanes, ir.IntType(VECTOR)(0))
        mask = builder.or_(mask, builder.select(some, word(1 << row), word(0)))
    with builder.if_then(builder.icmp_unsigned("!=", mask, word(0)), likely=False):
        for at, value in enumerate(value for result in results for value in result):
            builder.store(value, builder.gep(ends, [long(at)]), align=WORD)
    return builder.zext(mask, long)
