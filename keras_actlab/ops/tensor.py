"""What every operation here agrees on: what a tensor is, and how a vector lies along an axis."""

from typing import Any, TypeAlias

from keras import backend, ops

# A tensor of the active backend, a Keras variable, a KerasTensor or anything that NumPy can read. The backends share no
# common base class, so a type checker cannot say more.
Tensor: TypeAlias = Any


def floating(x: Tensor, at_least: str | None = None) -> Tensor:
    """Returns `x` as a floating-point tensor; integers become `floatx`, narrower floats become `at_least`."""
    x = ops.convert_to_tensor(x)
    dtype = backend.result_type(backend.standardize_dtype(x.dtype), float)
    if at_least is not None:
        dtype = backend.result_type(dtype, at_least)
    return ops.cast(x, dtype)


def along_axis(vector: Tensor, axis: int, rank: int) -> Tensor:
    """Reshapes `vector`, (n,), so that it broadcasts along `axis` of a tensor with `rank` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return ops.reshape(vector, shape)
