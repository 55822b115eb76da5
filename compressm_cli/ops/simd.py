"""Vectors of ``LANES`` float32 numbers as values inside numba kernels.

LLVM vectorizes a plain loop only where it can prove, or check cheaply, that its arrays do not overlap, and numba has
no vectorized ``exp``. Kernels that read and write several arrays at once say with these what a vector is and keep it
in registers. Whatever the machine's registers hold, LLVM splits or joins the vectors to fit.

``load`` and ``store`` count in elements from the first of an array, of any shape and layout, and check nothing.

What kernels share must be inlined (``forceinline``). Else the process that compiles a kernel and those that load it
from the cache may call different copies of it, in which products and sums are contracted differently: a run that is
resumed would differ in the last bits from the one that began it.
"""

import operator
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 16
# What it makes is called without the first argument: nothing that type checkers know.
_intrinsic: Any = intrinsic
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INTEGERS = ir.VectorType(ir.IntType(32), LANES)


class _Float32Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


_lanes = _Float32Lanes()


@register_model(_Float32Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _is_float32(array: Any) -> bool:
    return isinstance(array, types.Array) and array.dtype == types.float32


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


def _same(builder: Any, scalar: Any) -> Any:
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(_INTEGERS, [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), zeros)


@_intrinsic
def load(context: Any, array: Any, index: Any) -> Any:
    """The ``LANES`` numbers from ``index`` on."""
    if not _is_float32(array):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at = _pointer(context, builder, signature.args[0], *arguments)
        return builder.load(builder.bitcast(at, _VECTOR.as_pointer()), align=4)

    return _lanes(array, types.intp), generate


@_intrinsic
def load_same(context: Any, array: Any, index: Any) -> Any:
    """The number at ``index`` in every lane."""
    if not _is_float32(array):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at = _pointer(context, builder, signature.args[0], *arguments)
        return _same(builder, builder.load(at, align=4))

    return _lanes(array, types.intp), generate


@_intrinsic
def store(context: Any, array: Any, index: Any, vector: Any) -> Any:
    if not _is_float32(array) or vector != _lanes:
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, vector = arguments
        at = _pointer(context, builder, signature.args[0], array, index)
        builder.store(vector, builder.bitcast(at, _VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@_intrinsic
def same(context: Any, number: Any) -> Any:
    """A number in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _same(builder, arguments[0])

    return _lanes(types.float32), generate


@_intrinsic
def rounded_product(context: Any, a: Any, b: Any) -> Any:
    """a b, never one instruction with a sum: the same bits whatever else a kernel makes of it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fmul(*arguments)

    return _lanes(_lanes, _lanes), generate


@_intrinsic
def multiply_add(context: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, with one rounding wherever the machine has an instruction for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        return builder.call(function, arguments)

    return _lanes(_lanes, _lanes, _lanes), generate


@_intrinsic
def maximum(context: Any, a: Any, b: Any) -> Any:
    """The larger in each lane; b where one of them is not a number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return _lanes(_lanes, _lanes), generate


@_intrinsic
def total(context: Any, vector: Any) -> Any:
    """The sum over the lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        reduce = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.FloatType(), [ir.FloatType(), _VECTOR]),
            f"llvm.vector.reduce.fadd.v{LANES}f32",
        )
        return builder.call(reduce, [ir.Constant(ir.FloatType(), -0.0), arguments[0]], fastmath=("reassoc",))

    return types.float32(_lanes), generate


@_intrinsic
def _to_exponent(context: Any, vector: Any) -> Any:
    # The low eight bits of each lane's pattern, where the exponent stands: 2^(k - 127) for a pattern that ends in k.
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], _INTEGERS)
        return builder.bitcast(builder.shl(bits, ir.Constant(_INTEGERS, [23] * LANES)), _VECTOR)

    return _lanes(_lanes), generate


def _arithmetic(function: Callable[..., Any], instruction: str) -> None:
    @type_callable(function)
    def _(context: Any) -> Callable[..., Any]:
        return lambda a, b: _lanes if a == b == _lanes else None

    @lower_builtin(function, _lanes, _lanes)
    def _(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # A product and a sum may become one instruction, with one rounding.
        return getattr(builder, instruction)(*arguments, flags=("contract",))


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_function, _instruction)

LOG2_E = 1.4426950408889634
# Adding it rounds a number to a whole one, k, and leaves k + 127 in the lowest bits of the pattern.
_ROUND = 1.5 * 2**23 + 127


@numba.njit(forceinline=True)
def exp2_of_product(a, b):  # type: ignore[no-untyped-def]
    """2^(a b) for products up to 127, to a relative 1e-7; zero below -127. Exactly one where the product is zero."""
    product = maximum(same(-127.0), a * b)
    rounded = product + same(_ROUND)
    f = product - (rounded - same(_ROUND))
    # 2^f = 1 + f q(f) for f in [-1/2, 1/2], with the smallest largest relative error, 9e-8.
    q = f * same(1.326472731307149e-3) + same(9.671512991189957e-3)
    q = f * q + same(5.550733581185341e-2)
    q = f * q + same(2.4022242426872253e-1)
    q = f * q + same(6.931470036506653e-1)
    return (f * q + same(1.0)) * _to_exponent(rounded)


@numba.njit(forceinline=True)
def sigmoid(a):  # type: ignore[no-untyped-def]
    return same(1.0) / (same(1.0) + exp2_of_product(maximum(same(-87.0), a), same(-LOG2_E)))


@numba.njit(forceinline=True)
def softplus(a):  # type: ignore[no-untyped-def]
    """log(1 + e^a), to a relative 3e-7."""
    e = exp2_of_product(maximum(a, same(0.0) - a), same(-LOG2_E))
    # log(1 + e) = 2 artanh(s), and s is at most 1/3: again the smallest largest relative error, 5e-9.
    s = e / (same(2.0) + e)
    s2 = s * s
    q = s2 * same(0.2801220118999481) + same(0.2800176441669464)
    q = s2 * q + same(0.4002152979373932)
    q = s2 * q + same(0.666664183139801)
    return maximum(same(0.0), a) + s * (s2 * q + same(2.0))
