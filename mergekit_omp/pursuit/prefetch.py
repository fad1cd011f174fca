"""Asks for memory before it is read: scattered rows are otherwise waited for one by one."""

from __future__ import annotations

from typing import Any

from mergekit_omp.pursuit.compiled import instruction
from mergekit_omp.pursuit.register_tiles import named

LINE = 64
"""Bytes that come at a time."""


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    from llvmlite import ir

    row = context.make_array(signature.args[0])(context, builder, arguments[0])
    byte, word = ir.IntType(8), ir.IntType(32)
    start = builder.bitcast(row.data, byte.as_pointer())
    pointer = byte.as_pointer()
    ask = named(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, word, word, word])
    # To be read, kept in the second-level cache, data.
    builder.call(ask, [builder.gep(start, [arguments[1]]), word(0), word(2), word(1)])
    return context.get_dummy_value()


@instruction
def prefetch(typing, row, offset):  # type: ignore[no-untyped-def]
    """Asks for the line of a row's byte `offset`."""
    from numba import types

    return types.void(row, types.int64), _emit
