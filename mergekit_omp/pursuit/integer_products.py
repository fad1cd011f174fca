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
from mergekit_omp.pursuit.rounding import SHIFT

VECTOR = 16
"""Sums of 32 bits in a vector; each step adds the products of `FOUR` dimensions to each."""
FOUR = 4
VECTORS = 3
ATOMS = VECTORS * VECTOR
"""Atoms in a tile."""
RESIDUALS = 8
"""Residuals at a time: with three vectors of atoms they fill the registers."""
INSTRUCTION = "llvm.x86.avx512.vpdpbusd.512"
"""Adds to each of 16 sums the products of four unsigned and four signed bytes."""
ABSOLUTE = "llvm.abs.v16i32"


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
    """The code of `multiply`: one loop over the fours, with all sums in registers."""
    from llvmlite import ir

    arrays = [
        context.make_array(kind)(context, builder, value)
        for kind, value in zip(signature.args, arguments, strict=True)
    ]
    residuals, tile, correction, limits, out = arrays
    long, word = ir.IntType(64), ir.IntType(32)
    vector = ir.VectorType(word, VECTOR)
    # Older signature of the two; releases of LLVM that know another translate it.
    dot = builder.module.globals.get(INSTRUCTION) or ir.Function(
        builder.module, ir.FunctionType(vector, [vector] * 3), INSTRUCTION
    )
    count = builder.extract_value(tile.shape, 0)
    stride = builder.udiv(builder.extract_value(residuals.strides, 0), long(FOUR))
    words = builder.bitcast(residuals.data, word.as_pointer())
    rows = [builder.gep(words, [builder.mul(stride, long(row))]) for row in range(RESIDUALS)]
    tiles, starts, ends = (
        builder.bitcast(array.data, vector.as_pointer()) for array in (tile, correction, out)
    )
    bounds = builder.bitcast(limits.data, word.as_pointer())
    begun = [builder.load(builder.gep(starts, [long(at)]), align=FOUR) for at in range(VECTORS)]
    before = builder.block
    loop = builder.append_basic_block("fours")
    after = builder.append_basic_block("whole")
    builder.branch(loop)

    builder.position_at_end(loop)
    step = builder.phi(long)
    step.add_incoming(long(0), before)
    sums = [[builder.phi(vector) for _ in range(VECTORS)] for _ in range(RESIDUALS)]
    base = builder.mul(step, long(VECTORS))
    atoms = [
        builder.load(builder.gep(tiles, [builder.add(base, long(at))]), align=FOUR)
        for at in range(VECTORS)
    ]
    undefined = ir.Constant(vector, ir.Undefined)
    everywhere = ir.Constant(vector, [0] * VECTOR)
    results = []
    for row, line in zip(rows, sums, strict=True):
        four = builder.load(builder.gep(row, [step]), align=FOUR)
        spread = builder.insert_element(undefined, four, word(0))
        spread = builder.shuffle_vector(spread, undefined, everywhere)
        results.append(
            [
                builder.call(dot, [total, spread, atom])
                for total, atom in zip(line, atoms, strict=True)
            ]
        )
    following = builder.add(step, long(1))
    step.add_incoming(following, loop)
    for line, result in zip(sums, results, strict=True):
        for total, start, end in zip(line, begun, result, strict=True):
            total.add_incoming(start, before)
            total.add_incoming(end, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, count), loop, after)

    builder.position_at_end(after)
    reached = builder.module.globals.get(ABSOLUTE) or ir.Function(
        builder.module, ir.FunctionType(vector, [vector, ir.IntType(1)]), ABSOLUTE
    )
    mask = word(0)
    for row, result in enumerate(results):
        sizes = [builder.call(reached, [value, ir.IntType(1)(0)]) for value in result]
        top = sizes[0]
        for size in sizes[1:]:
            top = builder.select(builder.icmp_signed(">", size, top), size, top)
        bound = builder.load(builder.gep(bounds, [long(row)]), align=FOUR)
        bound = builder.insert_element(undefined, bound, word(0))
        bound = builder.shuffle_vector(bound, undefined, everywhere)
        lanes = builder.bitcast(builder.icmp_signed(">=", top, bound), ir.IntType(VECTOR))
        some = builder.icmp_unsigned("!=", lanes, ir.IntType(VECTOR)(0))
        mask = builder.or_(mask, builder.select(some, word(1 << row), word(0)))
    with builder.if_then(builder.icmp_unsigned("!=", mask, word(0)), likely=False):
        for at, value in enumerate(value for result in results for value in result):
            builder.store(value, builder.gep(ends, [long(at)]), align=FOUR)
    return mask


@instruction
def multiply(typing, residuals, tile, correction, limits, out):  # type: ignore[no-untyped-def]
    """out (8, 48), int32 = products of residuals (8, dims), uint8, and a tile, int8.

    Returns the residuals, as bits, that have a product of at least their limit in magnitude; where
    there is none, nothing is written. A processor without AVX512-VNNI cannot compile it.
    """
    from numba import types

    return types.int32(residuals, tile, correction, limits, out), _emit
