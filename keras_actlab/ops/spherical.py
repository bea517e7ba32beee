"""Spherical coordinates of unit vectors in n dimensions: angles to direction, and direction to angles."""

import math

import numpy as np
from keras import backend, ops

from keras_actlab.ops._jit import jit
from keras_actlab.ops._sines import sines_and_cosines
from keras_actlab.ops.fused import fused_direction
from keras_actlab.ops.tensor import Tensor, concrete, floating, largest_magnitude


def angles_to_direction(angles: Tensor) -> Tensor:
    """Returns the unit vectors with the given spherical angles, one per column.

    ```
    u[0]     = cos(angles[0])
    u[i]     = sin(angles[0]) * ... * sin(angles[i - 1]) * cos(angles[i])
    u[n - 1] = sin(angles[0]) * ... * sin(angles[n - 2])
    ```

    The angles need not be in the ranges of `keras_actlab.constraints.CanonicalAngles`. On JAX and TensorFlow, float32
    angles are clipped to `[-2**16, 2**16]`, beyond which neighbouring numbers are 1/128 apart. Elsewhere the gradient
    is exact, also where a sine is 0. `enable_fused_direction` lets a GPU compute the directions with one kernel.

    Args:
        angles: Tensor, (n - 1, units), radians, n >= 2. Half-precision angles are cast to float32, because a product of
            thousands of sines has no correct digits in half precision.

    Returns:
        A tensor of unit columns, (n, units), float32 or wider.

    Raises:
        ValueError: If `angles` is not a matrix with at least one row.

    Example:

    >>> direction = keras_actlab.ops.angles_to_direction([[np.pi / 2], [np.pi / 6]])
    >>> abs(keras.ops.convert_to_numpy(direction)[:, 0]).round(4)
    array([0.   , 0.866, 0.5  ], dtype=float32)

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """
    angles = floating(angles, at_least="float32", name="angles")
    if len(angles.shape) != 2 or not angles.shape[0]:
        raise ValueError(
            f"`angles` must have the shape (n - 1, units) with n >= 2. Received: angles.shape={tuple(angles.shape)}"
        )
    direction = fused_direction(angles)
    return plain_direction(angles) if direction is None else direction


def direction_to_angles(kernel: Tensor) -> Tensor:
    """Returns the spherical angles of the directions of a matrix's columns.

    The function is the right inverse of `angles_to_direction` on the whole sphere:
    `angles_to_direction(direction_to_angles(w))` is `w / norm(w)` for every column, including the sign of its last
    entry.

    `angles[i] = arctan2(norm(w[i + 1:]), w[i])`, except `angles[n - 2] = arctan2(w[n - 1], w[n - 2])`

    Args:
        kernel: Tensor, (n, units), n >= 2. Columns need not have norm 1 but must not be 0. Within a trace, columns of
            zeros cannot be detected and give NaN.

    Returns:
        A tensor, (n - 1, units), radians, float32 or wider. The last row is in [0, 2 pi), the others are in [0, pi].
        The map has no derivative where all entries below a non-zero one are 0. The gradient of such zeros is 0, and so
        is that of entries whose squares underflow beside the square of the largest entry.

    Raises:
        ValueError: If `kernel` is not a matrix with at least two rows, or has a column of zeros or of subnormal
            numbers, which some backends flush to zero.

    Example:

    >>> angles = keras_actlab.ops.direction_to_angles([[0.0], [0.0], [-3.0]])
    >>> (keras.ops.convert_to_numpy(angles)[:, 0] / np.pi).round(4)
    array([0.5, 1.5], dtype=float32)

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), section 3.
    """
    kernel = floating(kernel, at_least="float32", name="kernel")
    if len(kernel.shape) != 2 or (kernel.shape[0] or 0) < 2:
        raise ValueError(
            f"`kernel` must have the shape (n, units) with n >= 2. Received: kernel.shape={tuple(kernel.shape)}"
        )
    _check_no_zero_column(kernel)
    return _to_angles(kernel)


@jit
def plain_direction(angles: Tensor) -> Tensor:
    """Returns what `angles_to_direction` does, computed with operations of Keras."""
    sines, cosines = sines_and_cosines(angles)
    cosines = ops.concatenate([cosines, ops.ones_like(angles[:1, :])], axis=0)
    # int: PyTorch's export traces sizes as tensors, and the integer arithmetic in `_products_before` would differ.
    return _products_before(sines, int(angles.shape[0]) + 1) * cosines


@jit
def _to_angles(kernel: Tensor) -> Tensor:
    kernel = kernel / largest_magnitude(kernel, 0)  # no square overflows, and no relevant square underflows
    # The sum starts at the last row, so that trailing zeros of a column give norms of exactly 0.
    squares = ops.flip(ops.square(kernel), axis=0)
    squares = ops.flip(ops.cumsum(squares, axis=0), axis=0)  # squares[i] = norm(kernel[i:])**2
    # Where a square underflows, the gradient would contain 0 / 0.
    differentiable = squares > 4 * np.finfo(backend.standardize_dtype(kernel.dtype)).tiny
    norms = ops.sqrt(_constant_unless(differentiable, squares))
    rest = ops.concatenate([norms[1:-1, :], kernel[-1:, :]], axis=0)
    differentiable = differentiable[:-1, :]
    angles = ops.arctan2(_constant_unless(differentiable, rest), _constant_unless(differentiable, kernel[:-1, :]))
    # Only the last row can be negative. A tiny negative angle plus 2 pi rounds to 2 pi, whose principal value is 0.
    angles = ops.where(angles < 0, angles + 2 * math.pi, angles)
    return ops.where(angles >= 2 * math.pi, 0.0, angles)


def _constant_unless(differentiable: Tensor, x: Tensor) -> Tensor:
    """Returns `x`; its gradient is 0 where `differentiable` is False, even if the upstream gradient is NaN."""
    return ops.where(differentiable, x, ops.stop_gradient(x))


def _products_before(x: Tensor, rows: int) -> Tensor:
    """Returns the exclusive cumulative product: row i is the product of rows 0, ..., i - 1 of `x`.

    `x` has at least `rows - 1` rows. The function multiplies the rows of each block of three, calls itself for the
    products of the blocks, and completes the rows within the blocks. `ops.cumprod` would do the same, but its gradient
    is several times slower on JAX, and wrong on TensorFlow where a factor is 0 (tensorflow#119430), as are sines of a
    kernel with trailing zeros.
    """
    if rows == 1:
        return ops.ones_like(x[:1, :])
    blocks = -(-rows // 3)
    missing = 3 * blocks - int(x.shape[0])
    if missing > 0:
        x = ops.pad(x, [[0, missing], [0, 0]], constant_values=1.0)
    x, y, z = ops.unstack(ops.reshape(x[: 3 * blocks, :], (blocks, 3, -1)), 3, axis=1)
    first = _products_before(x * y * z, blocks)
    second = first * x
    third = second * y
    return ops.reshape(ops.stack([first, second, third], axis=1), (3 * blocks, -1))[:rows, :]


def _check_no_zero_column(kernel: Tensor) -> None:
    """Raises if the largest magnitude of a column is 0 or subnormal. Within a trace, nothing is checked."""
    values = concrete(kernel)
    if values is None:
        return
    zero = np.flatnonzero(np.abs(values).max(axis=0, initial=0.0) < np.finfo(values.dtype).tiny)
    if zero.size:
        raise ValueError(
            "Every column of `kernel` must have a direction, that is, an entry that is neither zero nor subnormal. "
            f"Received: zero columns at kernel[:, {zero.tolist()[:10]}]"
        )
