"""Piecewise linear functions on evenly spaced knots."""

from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_actlab.ops.remat import remat
from keras_actlab.ops.tensor import Tensor, at_least_float32, floating, look_up, tensor


def check_knots(knots: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns `knots` as a float32 array; raises unless they are two or more, finite, increasing and evenly spaced."""
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
    """Piecewise linear function through the points `(knots[k], values[k])`, whose first and last piece go on.

    `y = values[k] + slope[k] * (x - knots[k])  for  knots[k] <= x < knots[k + 1]`

    where `slope[k] = (values[k + 1] - values[k]) / (knots[k + 1] - knots[k])`; the first piece holds for all lower
    `x`, too, and the last one for all higher ones. At a knot the slope is that of the piece on its right (to rounding:
    a piece is looked up by `(x - knots[0]) / spacing`, which takes the same time for any number of knots).

    How gradients of large inputs are computed, and what PyTorch compiles, is told in `keras_actlab.ops.remat`.

    Args:
        x: Tensor of any shape. Integers are converted to `keras.config.floatx()`.
        knots: (n,), n >= 2, increasing and evenly spaced. Lists, tuples and NumPy arrays are checked; the values of a
            backend's tensor or of a variable are trusted. They have no gradient.
        values: (n,), the values at the knots.

    Returns:
        A tensor with the shape and dtype of `x`, computed in float32 or wider. The derivative with respect to `values`
        grows with the distance of `x` from the knots, as the tails are lines.

    Raises:
        ValueError: If the knots are too few, not finite, not increasing or not evenly spaced, or if `values` has
            another shape.
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


@remat
def _linear_spline(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    wide = at_least_float32(x)  # half precision would look up the wrong piece
    knots, values = ops.stop_gradient(ops.cast(knots, wide.dtype)), ops.cast(values, wide.dtype)
    # Each piece as intercept + slope * x. With x - knot in its place ReLU would not be exact, as that rounds.
    slopes = (values[1:] - values[:-1]) / (knots[1:] - knots[:-1])
    intercepts = values[:-1] - slopes * knots[:-1]
    # Both are looked up at once, as the gradient of a look-up, which adds up serially, takes most of the time.
    lines = look_up(ops.stack([intercepts, slopes]), _piece(ops.stop_gradient(wide), knots))
    return ops.cast(lines[0] + lines[1] * wide, x.dtype)


def _piece(x: Tensor, knots: Tensor) -> Tensor:
    """The index of the piece that each entry of `x` lies in, as an integer from 0 to n - 2."""
    last = knots.shape[0] - 2
    position = (x - knots[0]) * ((last + 1) / (knots[-1] - knots[0]))
    # Clipped before the cast, since integers do not reach as far as floats, and after it, since NaN may become any.
    return ops.clip(ops.cast(ops.clip(position, 0, last), "int32"), 0, last)
