"""The code of a small matrix product whose result stays in registers until it is whole.

Eight rows by three vectors of sixteen columns: their sums, a step of the columns and one number of
a row fill the 32 registers of AVX512. What comes out is written only where an entry reaches its
row's limit, so that nothing is written where all that matters is that none does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

VECTOR = 16
VECTORS = 3
COLUMNS = VECTOR * VECTORS
ROWS = 8
WORD = 4
"""Bytes of an entry."""


@dataclass(frozen=True)
class Arithmetic:
    """What is done with numbers of one kind, in LLVM's terms."""

    kind: Any
    multiply_add: Callable[[Any, Any, Any, Any], Any]
    """From builder, sums, a number in all lanes and a vector: the new sums."""
    absolute: Callable[[Any, Any], Any]
    compare: Callable[[Any, str, Any, Any], Any]


def arrays_of(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    """The arguments of an instruction that are Numba's arrays, all of them."""
    return [
        context.make_array(kind)(context, builder, value)
        for kind, value in zip(signature.args, arguments, strict=True)
    ]


def named(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """One of LLVM's own functions."""
    from llvmlite import ir

    return builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(result, arguments), name
    )


def emit(
    builder: Any,
    arithmetic: Arithmetic,
    rows: Any,
    columns: Any,
    steps: Any,
    start: Any,
    limits: Any,
    out: Any,
) -> Any:
    """Sums over steps of a number of each row times a vector of columns, added to `start`.

    The arrays are Numba's. A row of `rows` holds a number for each step, a row of `columns` 48
    numbers, all of four bytes; `start` (48, or None for zeros), `limits` (8) and `out` (8, 48) are
    contiguous. Returns the rows, as bits, that have an entry of at least their limit in magnitude.
    """
    from llvmlite import ir

    long, word = ir.IntType(64), ir.IntType(32)
    number = arithmetic.kind
    vector = ir.VectorType(number, VECTOR)

    def pointer(array: Any, kind: Any) -> Any:
        return builder.bitcast(array.data, kind.as_pointer())

    def load(base: Any, at: Any) -> Any:
        return builder.load(builder.gep(base, [at]), align=WORD)

    def stride(array: Any) -> Any:
        return builder.udiv(builder.extract_value(array.strides, 0), long(WORD))

    undefined = ir.Constant(vector, ir.Undefined)
    everywhere = ir.Constant(ir.VectorType(word, VECTOR), [0] * VECTOR)

    def in_all_lanes(value: Any) -> Any:
        first = builder.insert_element(undefined, value, word(0))
        return builder.shuffle_vector(first, undefined, everywhere)

    numbers, across = pointer(rows, number), stride(rows)
    lines = [builder.gep(numbers, [builder.mul(across, long(row))]) for row in range(ROWS)]
    cells, down = pointer(columns, number), stride(columns)
    if start is None:
        begun = [ir.Constant(vector, None)] * VECTORS
    else:
        starts = pointer(start, vector)
        begun = [load(starts, long(at)) for at in range(VECTORS)]
    before = builder.block
    loop, after = builder.append_basic_block("steps"), builder.append_basic_block("whole")
    builder.branch(loop)

    builder.position_at_end(loop)
    step = builder.phi(long)
    step.add_incoming(long(0), before)
    sums = [[builder.phi(vector) for _ in range(VECTORS)] for _ in range(ROWS)]
    line = builder.bitcast(builder.gep(cells, [builder.mul(step, down)]), vector.as_pointer())
    vectors = [load(line, long(at)) for at in range(VECTORS)]
    results = []
    for values, totals in zip(lines, sums, strict=True):
        spread = in_all_lanes(load(values, step))
        results.append(
            [
                arithmetic.multiply_add(builder, total, spread, part)
                for total, part in zip(totals, vectors, strict=True)
            ]
        )
    following = builder.add(step, long(1))
    step.add_incoming(following, loop)
    for totals, result in zip(sums, results, strict=True):
        for total, first, last in zip(totals, begun, result, strict=True):
            total.add_incoming(first, before)
            total.add_incoming(last, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, steps), loop, after)

    builder.position_at_end(after)
    bounds, ends = pointer(limits, number), pointer(out, vector)
    mask = word(0)
    for row, result in enumerate(results):
        sizes = [arithmetic.absolute(builder, value) for value in result]
        top = sizes[0]
        for size in sizes[1:]:
            top = builder.select(arithmetic.compare(builder, ">", size, top), size, top)
        reached = arithmetic.compare(builder, ">=", top, in_all_lanes(load(bounds, long(row))))
        lanes = builder.bitcast(reached, ir.IntType(VECTOR))
        some = builder.icmp_unsigned("!=", lanes, ir.IntType(VECTOR)(0))
        mask = builder.or_(mask, builder.select(some, word(1 << row), word(0)))
    with builder.if_then(builder.icmp_unsigned("!=", mask, word(0)), likely=False):
        for at, value in enumerate(value for result in results for value in result):
            builder.store(value, builder.gep(ends, [long(at)]), align=WORD)
    return mask
