"""Piecewise constant matrices, applied to the vector that they depend on."""

from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_actlab.arguments import check_number
from keras_actlab.ops.remat import remat
from keras_actlab.ops.tensor import Tensor, along_axis, at_least_float32, floating, integer, look_up, tensor

# From this number of thresholds on, looking an interval up is faster than comparing with each of them.
MIN_LOOKUP_THRESHOLDS = 8


def check_thresholds(thresholds: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """Returns `thresholds` as a tuple of floats; raises unless they are finite and strictly increasing, and any."""
    try:
        values = np.asarray(thresholds)
    except ValueError:  # sequences of unequal length
        values = np.asarray(None)
    if values.dtype.kind not in "iuf":
        raise TypeError(f"`thresholds` must be a sequence of numbers. Received: thresholds={thresholds!r}")
    if values.ndim != 1 or values.size == 0:
        raise ValueError(
            "`thresholds` must be a one-dimensional sequence of at least one number. "
            f"Received: thresholds={thresholds!r}"
        )
    with np.errstate(over="ignore"):
        values = values.astype("float32")
    if not np.all(np.isfinite(values)) or np.any(np.diff(values) <= 0):
        raise ValueError(
            f"`thresholds` must be finite and strictly increasing, in float32. Received: thresholds={thresholds!r}"
        )
    return tuple(float(threshold) for threshold in thresholds)


def matrix_activation(
    x: Tensor,
    levels: Tensor,
    thresholds: Tensor,
    axis: int = -1,
    surrogate_width: float | None = None,
) -> Tensor:
    """Multiplies the channels of `x` by a banded matrix whose entries are piecewise constant functions of `x`.

    `y[i] = sum over |d| <= bandwidth of a[d, i + d](x[i + d]) * x[i + d]`, for the channels `i + d` that exist (the
    band does not wrap around), where the entry of column `j`, `d` places off the diagonal, is

    `a[d, j](s) = levels[bandwidth + d, k, j]  for  thresholds[k - 1] < s <= thresholds[k]`

    with intervals that are open on the left and closed on the right, the first reaching down to minus and the last up
    to plus infinity. `bandwidth = 0` is the diagonal activation of the paper, 1 the tri-diagonal one, `channels - 1`
    the full matrix. That an off-diagonal entry depends on the channel of its column is our reading of the paper.

    The work grows with the number of diagonals. It grows with the number of intervals, too, unless the thresholds are a
    list, tuple or array of 8 or more, evenly spaced: then an entry is looked up.

    How gradients of large inputs are computed, and what PyTorch compiles, is told in `keras_actlab.ops.remat`.

    Args:
        x: Tensor with the channels on `axis`. Integers are converted to `keras.config.floatx()`.
        levels: Tensor, (2 * bandwidth + 1, m + 1, channels), or (2 * bandwidth + 1, m + 1, 1) when all channels share
            their levels.
        thresholds: (m,), finite and strictly increasing. Lists, tuples and NumPy arrays are checked; the values of
            a backend's tensor or of a variable are trusted.
        axis: The channel axis.
        surrogate_width: The derivative with respect to a threshold is 0 almost everywhere. With a width `w`, in units
            of `x`, a surrogate takes its place: the step at a threshold `s` counts as having the slope
            `max(0, 1 - |x - s| / w) / w`. The output and all other gradients are unaffected.

    Returns:
        A tensor with the shape and dtype of `x`, computed in float32 or wider.

    Raises:
        ValueError: If an axis, shape, order or width does not fit.
        TypeError: If `thresholds` are not numbers.

    Example: a leaky ReLU, and in the second channel a ReLU that looks the other way.

    >>> levels = [[[0.5, 1.0], [1.0, 0.0]]]  # one diagonal, two intervals, two channels
    >>> y = keras_actlab.ops.matrix_activation([[-2.0, -2.0], [3.0, 3.0]], levels, thresholds=(0.0,))
    >>> keras.ops.convert_to_numpy(y)
    array([[-1., -2.],
           [ 3.,  0.]], dtype=float32)

    Reference:

    - [Liu et al., 2024](https://arxiv.org/abs/2109.09948), "Neural networks with trainable matrix activation
      functions".
    """
    if isinstance(thresholds, (list, tuple, np.ndarray)):
        thresholds = check_thresholds(thresholds)
    if surrogate_width is not None:
        check_number("surrogate_width", surrogate_width, positive=True)
    even = isinstance(thresholds, tuple) and surrogate_width is None and _evenly_spaced(thresholds)
    x = floating(x)
    levels = ops.cast(tensor("levels", levels), at_least_float32(x).dtype)  # so that their gradients add up in float32
    thresholds = tensor("thresholds", thresholds)
    rank = len(x.shape)
    axis = integer("axis", axis)
    if not -rank <= axis < rank:
        raise ValueError(f"`axis` must name an axis of `x`. Received: axis={axis}, x.shape={tuple(x.shape)}")
    axis = axis % rank
    _check_shapes(tuple(x.shape), tuple(levels.shape), tuple(thresholds.shape), axis)
    if even and thresholds.shape[0] >= MIN_LOOKUP_THRESHOLDS:
        return (_look_up if axis == 0 else _look_up_by_rows)(x, levels, thresholds, axis=axis)
    compare = _compare if axis == 0 else _compare_by_rows
    return compare(x, levels, thresholds, axis=axis, surrogate_width=surrogate_width)


def _compare(x: Tensor, levels: Tensor, thresholds: Tensor, axis: int, surrogate_width: float | None) -> Tensor:
    """The sum over the diagonals, whose entries are found by comparing `x` with every threshold."""
    dtype = x.dtype
    x = at_least_float32(x)
    thresholds = ops.cast(thresholds, x.dtype)
    rank, intervals = len(x.shape), levels.shape[1]
    above = [x > thresholds[k] for k in range(intervals - 1)]
    terms = []
    for row in range(levels.shape[0]):
        steps = [along_axis(levels[row, k], axis, rank) for k in range(intervals)]
        entry = steps[0]
        for k in range(1, intervals):
            entry = ops.where(above[k - 1], steps[k], entry)
        if surrogate_width is not None:
            entry = entry + _threshold_surrogate(x, steps, thresholds, surrogate_width)
        terms.append(entry * x)
    return ops.cast(_sum_of_diagonals(terms, axis), dtype)


def _look_up(x: Tensor, levels: Tensor, thresholds: Tensor, axis: int) -> Tensor:
    """The sum over the diagonals, whose entries are looked up, which takes as many steps for any number of them.

    The thresholds are evenly spaced. The interval of `x` ends or starts at the threshold that is nearest to it.
    """
    dtype = x.dtype
    x = at_least_float32(x)
    thresholds = ops.cast(thresholds, x.dtype)
    rank, last = len(x.shape), thresholds.shape[0] - 1
    constant = ops.stop_gradient(x)
    spacing = (thresholds[last] - thresholds[0]) / last
    # Clipped before the cast, since integers do not reach as far as floats, and after it, since NaN may become any.
    position = ops.round((constant - thresholds[0]) / spacing)
    nearest = ops.clip(ops.cast(ops.clip(position, 0, last), "int32"), 0, last)
    above = constant > look_up(thresholds, nearest)
    channels = levels.shape[2]
    # Counted: PyTorch compiles no array of NumPy's, and jax2onnx no `ops.arange`.
    column = along_axis(ops.cumsum(ops.ones((channels,), "int32")) - 1, axis, rank)
    entry = (nearest + ops.cast(above, "int32")) * channels + column
    rows = [ops.reshape(levels[row], (-1,)) for row in range(levels.shape[0])]
    terms = [look_up(row, entry) * x for row in rows]
    return ops.cast(_sum_of_diagonals(terms, axis), dtype)


_compare_by_rows = remat(_compare)
_look_up_by_rows = remat(_look_up)


def _evenly_spaced(thresholds: tuple[float, ...]) -> bool:
    even = np.linspace(thresholds[0], thresholds[-1], len(thresholds))
    return len(thresholds) > 1 and bool(np.max(np.abs(thresholds - even)) < 0.1 * (even[1] - even[0]))


def _check_shapes(
    x_shape: tuple[int | None, ...],
    levels_shape: tuple[int, ...],
    thresholds_shape: tuple[int, ...],
    axis: int,
) -> None:
    """Raises unless the three shapes belong together."""
    channels = x_shape[axis]
    if len(thresholds_shape) != 1 or thresholds_shape[0] == 0:
        raise ValueError(
            f"`thresholds` must have the shape (m,), m >= 1. Received: thresholds.shape={thresholds_shape}"
        )
    if (
        len(levels_shape) != 3
        or levels_shape[0] % 2 == 0
        or levels_shape[1] != thresholds_shape[0] + 1
        or levels_shape[2] not in (1, channels)
    ):
        raise ValueError(
            "`levels` must have the shape (2 * bandwidth + 1, m + 1, channels or 1), here "
            f"(2 * bandwidth + 1, {thresholds_shape[0] + 1}, {channels} or 1). Received: levels.shape={levels_shape}, "
            f"x.shape={x_shape}, axis={axis}"
        )
    bandwidth = levels_shape[0] // 2
    if bandwidth > 0 and (channels is None or bandwidth >= channels):
        raise ValueError(
            f"The bandwidth of `levels`, {bandwidth}, must be less than the number of channels. "
            f"Received: levels.shape={levels_shape}, x.shape={x_shape}, axis={axis}"
        )


def _threshold_surrogate(x: Tensor, steps: list[Tensor], thresholds: Tensor, width: float) -> Tensor:
    """Zeros whose derivative with respect to threshold k is the drop in level there, times a hat around it."""
    surrogate = 0.0
    for k in range(len(steps) - 1):
        hat = ops.relu(1.0 - ops.abs(x - thresholds[k]) / width) / width
        slope = ops.stop_gradient(hat * (steps[k] - steps[k + 1]))
        surrogate = surrogate + slope * (thresholds[k] - ops.stop_gradient(thresholds[k]))
    return surrogate


def _sum_of_diagonals(terms: list[Tensor], axis: int) -> Tensor:
    """Adds the terms up, after moving entry `i + d` of the one that is `d` places off the diagonal to place `i`."""
    bandwidth = len(terms) // 2
    total = terms[bandwidth]
    for d in range(1, bandwidth + 1):
        total = total + _shift(terms[bandwidth - d], -d, axis) + _shift(terms[bandwidth + d], d, axis)
    return total


def _shift(x: Tensor, by: int, axis: int) -> Tensor:
    """Moves entry `i + by` along `axis` to place `i`, and zeros to the places that nothing moves to."""
    kept, lost = [slice(None)] * len(x.shape), [slice(None)] * len(x.shape)
    length = x.shape[axis]
    kept[axis], lost[axis] = (slice(by, None), slice(0, by)) if by > 0 else (slice(0, by), slice(length + by, None))
    # Not `ops.pad`: PyTorch would compile it anew at every call, since Keras counts its calls in the name of an object.
    parts = [x[tuple(kept)], ops.zeros_like(x[tuple(lost)])]
    return ops.concatenate(parts if by > 0 else parts[::-1], axis=axis)
