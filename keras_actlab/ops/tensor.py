"""Conversions and lookups that the operations share."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from keras import backend, ops

from keras_actlab.arguments import integer as integer
from keras_actlab.arguments import received

# A tensor of the active backend, a Keras variable, a KerasTensor or anything that NumPy can read. The backends share no
# common base class, so a type checker cannot say more.
Tensor: TypeAlias = Any


def tensor(name: str, x: Tensor) -> Tensor:
    """Returns `x` as a tensor. Raises a TypeError that names the argument if it holds no numbers."""
    try:
        converted = ops.convert_to_tensor(x)
        if backend.standardize_dtype(converted.dtype) == "string":
            raise TypeError("TensorFlow has tensors of strings")
    except Exception as error:  # the type depends on the backend
        raise TypeError(f"`{name}` must be a tensor, or an array of numbers. {received(name, x)}") from error
    return converted


def floating(x: Tensor, at_least: str | None = None, name: str = "x") -> Tensor:
    """Returns `x` as a floating-point tensor. Integers are cast to `floatx`, narrower floats to `at_least`."""
    x = tensor(name, x)
    dtype = backend.result_type(backend.standardize_dtype(x.dtype), float)
    if at_least is not None:
        dtype = backend.result_type(dtype, at_least)
    return ops.cast(x, dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """Returns `x`, a floating-point tensor, in float32 or wider.

    Unlike `floating`, the function avoids Keras' cache of dtypes, for which PyTorch warns during compilation.
    """
    return ops.cast(x, "float32") if backend.standardize_dtype(x.dtype) in ("float16", "bfloat16") else x


def concrete(x: Tensor) -> np.ndarray | None:
    """Returns the values of `x`; None if it has none: within a trace, symbolic, or on PyTorch's meta device."""
    try:
        return ops.convert_to_numpy(x)
    except (TypeError, ValueError, NotImplementedError, RuntimeError):
        return None  # the backends and KerasTensor raise different types


def along_axis(vector: Tensor, axis: int, rank: int) -> Tensor:
    """Reshapes `vector`, (n,), so that it broadcasts along `axis` of a tensor with `rank` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return ops.reshape(vector, shape)


def largest_magnitude(x: Tensor, axis: int | Sequence[int]) -> Tensor:
    """Returns the largest magnitude along `axis`, with the axis kept, as a divisor that prevents overflow.

    The divisor has no gradient, where its square could underflow; results that do not depend on the divisor have the
    correct gradient nevertheless. It is at most `1 / tiny`, because XLA multiplies by the reciprocal on CPUs and
    flushes a subnormal reciprocal to 0. The magnitudes of the quotients are at most 4.
    """
    # The maximum of an empty axis raises; its sum is 0. (jax2onnx cannot export `ops.max` with an initial value.)
    reduce = ops.sum if 0 in x.shape else ops.max
    largest = ops.stop_gradient(reduce(ops.abs(x), axis=axis, keepdims=True))
    return ops.minimum(largest, 1 / float(np.finfo(backend.standardize_dtype(x.dtype)).tiny))


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """Returns `table[..., index]`."""
    if backend.backend() == "torch" and not backend.is_keras_tensor(index):
        return table[..., index.long()]  # the export to ONNX fails on a squeeze in `ops.take`
    return ops.take(table, index, axis=len(table.shape) - 1)
