"""Piecewise linear functions on evenly spaced knots."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from keras import ops

from keras_actlab.ops.remat import remat
from keras_actlab.ops.tensor import Tensor, at_least_float32, floating, look_up, tensor


def check_knots(knots: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns `knots` in float32. Raises unless there are at least two, finite, increasing and evenly spaced."""
    try:
        array = np.asarray(knots)
    except ValueError:  # sequences of unequal length
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"`knots` must be a sequence of numbers. Received: knots={knots!r}")
    if array.ndim != 1 or array.size < 2:
        raise ValueError(
            f"`knots` must be a one-dimensional sequence of at least two numbers. Received: knots={knots!r}"
        )
    with np.errstate(over="ignore"):
        array = array.astype("float32")
        length = array[-1] - array[0] if np.all(np.isfinite(array)) else np.inf
    if not np.isfinite(length) or np.any(array[:-1] >= array[1:]):
        raise ValueError(f"`knots` must be finite and strictly increasing, in float32. Received: knots={knots!r}")
    even = np.linspace(array[0], array[-1], array.size, dtype="float64")
    if np.max(np.abs(array - even)) > 0.01 * (even[1] - even[0]):
        raise ValueError(f"`knots` must be evenly spaced, to a hundredth of their distance. Received: knots={knots!r}")
    return array


def linear_spline(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Applies the piecewise linear function through the points `(knots[k], values[k])`, with linear tails.

    `y = values[k] + slope[k] * (x - knots[k])  for  knots[k] <= x < knots[k + 1]`

    where `slope[k] = (values[k + 1] - values[k]) / (knots[k + 1] - knots[k])`. The first piece also covers all lower
    `x`, and the last piece all higher `x`. At a knot, the slope is that of the piece on its right, up to rounding: the
    index of the piece is computed from `(x - knots[0]) / spacing`, in the same time for any number of knots.

    Large inputs use a memory-saving backward pass; see `keras_actlab.ops.remat`.

    Args:
        x: Tensor of any shape. Integers are converted to `keras.config.floatx()`.
        knots: (n,), n >= 2, increasing and evenly spaced. Lists, tuples and NumPy arrays are checked; the values of a
            backend tensor or of a variable are not checked. They have no gradient.
        values: (n,), the values at the knots.

    Returns:
        A tensor with the shape and dtype of `x`, computed in float32 or wider. Because the tails are linear, the
        derivative with respect to `values` grows with the distance of `x` from the knots.

    Raises:
        ValueError: If there are fewer than two knots, if they are not finite, increasing and evenly spaced, or if
            `values` has another shape.
        TypeError: If `knots` are not numbers.

    Example:

    >>> y = keras_actlab.ops.linear_spline([-3.0, 0.5, 5.0], knots=(-1.0, 0.0, 1.0), values=(0.0, 0.0, 2.0))
    >>> keras.ops.convert_to_numpy(y)
    array([ 0.,  1., 10.], dtype=float32)
    """
    if isinstance(knots, (list, tuple, np.ndarray)):
        knots = check_knots(knots)
    x = floating(x)
    knots = ops.stop_gradient(floating(knots, at_least="float32", name="knots"))
    values = ops.cast(tensor("values", values), at_least_float32(x).dtype)
    if len(knots.shape) != 1 or tuple(values.shape) != tuple(knots.shape) or knots.shape[0] < 2:
        raise ValueError(
            "`knots` and `values` must have the same shape (n,), n >= 2. "
            f"Received: knots.shape={tuple(knots.shape)}, values.shape={tuple(values.shape)}"
        )
    return _linear_spline(x, knots, values)


@partial(remat, scatters=True)
def _linear_spline(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    wide = at_least_float32(x)  # in half precision, the index of the piece could be wrong
    knots, values = ops.stop_gradient(ops.cast(knots, wide.dtype)), ops.cast(values, wide.dtype)
    # Each piece is intercept + slope * x. With slope * (x - knot), ReLU would not be exact, because x - knot is
    # rounded.
    slopes = (values[1:] - values[:-1]) / (knots[1:] - knots[:-1])
    intercepts = values[:-1] - slopes * knots[:-1]
    # One lookup for both, because its gradient, a serial sum, takes most of the time.
    lines = look_up(ops.stack([intercepts, slopes]), _piece(ops.stop_gradient(wide), knots))
    return ops.cast(lines[0] + lines[1] * wide, x.dtype)


def _piece(x: Tensor, knots: Tensor) -> Tensor:
    """Returns the index of the piece that contains each entry of `x`, an integer from 0 to n - 2."""
    last = knots.shape[0] - 2
    position = (x - knots[0]) * ((last + 1) / (knots[-1] - knots[0]))
    # Clipped before the cast, because a float may exceed the integers, and after it, because NaN may become any
    # integer.
    return ops.clip(ops.cast(ops.clip(position, 0, last), "int32"), 0, last)
