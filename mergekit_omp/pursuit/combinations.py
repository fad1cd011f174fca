"""Combinations of rows in float32, at the rate of a large matrix product."""

from __future__ import annotations

from typing import Any

from mergekit_omp.pursuit.compiled import instruction
from mergekit_omp.pursuit.register_tiles import VECTOR, Arithmetic, arrays_of, emit, named


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    from llvmlite import ir

    weights, rows, limits, out = arrays_of(context, builder, signature, arguments)
    number = ir.FloatType()
    vector = ir.VectorType(number, VECTOR)

    def multiply_add(builder: Any, total: Any, spread: Any, part: Any) -> Any:
        fused = named(builder, "llvm.fma.v16f32", vector, [vector] * 3)
        return builder.call(fused, [spread, part, total])

    def absolute(builder: Any, value: Any) -> Any:
        return builder.call(named(builder, "llvm.fabs.v16f32", vector, [vector]), [value])

    def compare(builder: Any, how: str, left: Any, right: Any) -> Any:
        return builder.fcmp_ordered(how, left, right)

    arithmetic = Arithmetic(number, multiply_add, absolute, compare)
    steps = builder.extract_value(rows.shape, 0)
    return emit(builder, arithmetic, weights, rows, steps, None, limits, out)


@instruction
def combine(typing, weights, rows, limits, out):  # type: ignore[no-untyped-def]
    """out (8, 48) = weights (8, steps) @ rows (steps, 48), all float32 and of at least one step.

    Returns the rows of the result, as bits, that have an entry of at least their limit in
    magnitude; where there is none, nothing is written.
    """
    from numba import types

    return types.int32(weights, rows, limits, out), _emit
