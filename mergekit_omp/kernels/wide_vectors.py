"""Compiles for vectors of 512 bits where a processor has them.

LLVM prefers 256 on Intel's, since their first with 512 slowed down where these were used. A Xeon
with AMX (Emerald Rapids) does not; other processors were not tried.
"""

from __future__ import annotations

from typing import Any

from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering


class _Lower(Lower):
    def setup_function(self, fndesc: Any) -> None:
        super().setup_function(fndesc)
        # llvmlite writes every attribute down, but adds those alone that it knows.
        set.add(self.function.attributes, '"prefer-vector-width"="512"')


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    _name = "lowering_to_wide_vectors"

    @property
    def lowering_class(self) -> type[Lower]:
        return _Lower


class Compiler(CompilerBase):
    """Numba's own, but for one attribute of every function."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [
            (_Lowering if one is NativeLowering else one, why) for one, why in passes.passes
        ]
        passes.finalize()
        return [passes]
