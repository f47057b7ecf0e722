"""A hint to the processor: this byte will be read soon.

The bytes of a batch of packets are more than the second-level cache holds. A kernel that looks into each payload
waits for the third level; told a few packets ahead, it need not. A hint never faults, whatever the address.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["prefetch"]


def _prefetch(typingctx: Any, array: Any, index: Any) -> Any:
    """Ask for ``array[index]`` (one dimension, contiguous) to be brought near."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, args[0])
        at = builder.bitcast(builder.gep(view.data, [args[1]]), cgutils.voidptr_t)
        number = ir.IntType(32)
        hint = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module,
            ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number]),
            "llvm.prefetch.p0i8",
        )
        builder.call(hint, [at, number(0), number(3), number(1)])  # to read, keep near, data
        return context.get_dummy_value()

    return types.void(array, index), generate


prefetch: Any = intrinsic(_prefetch)
