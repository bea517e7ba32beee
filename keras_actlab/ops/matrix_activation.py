"""The product of a vector with a banded matrix whose entries are piecewise constant functions of the vector."""

from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_actlab.arguments import check_number
from keras_actlab.ops.remat import remat
from keras_actlab.ops.tensor import Tensor, along_axis, at_least_float32, floating, integer, look_up, tensor

# From this number of thresholds on, a table lookup is faster than a comparison with each threshold.
MIN_LOOKUP_THRESHOLDS = 8


def check_thresholds(thresholds: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """Returns `thresholds` as a tuple of floats. Raises unless they are finite and increase."""
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

    Intervals are open on the left and closed on the right. The first one extends to minus infinity, the last one to
    plus infinity. `bandwidth = 0` is the diagonal activation of the paper, 1 the tri-diagonal one, `channels - 1` the
    full matrix. The paper does not say which channel an off-diagonal entry depends on; here, it is that of its column.

    The run time grows with the number of diagonals and with the number of intervals. With 8 or more evenly spaced
    thresholds, given as a list, tuple or array, a table lookup makes it independent of the number of intervals.

    Large inputs use a memory-saving backward pass; see `keras_actlab.ops.remat`.

    Args:
        x: Tensor with the channels on `axis`. Integers are converted to `keras.config.floatx()`.
        levels: Tensor, (2 * bandwidth + 1, m + 1, channels), or (2 * bandwidth + 1, m + 1, 1) when all channels share
            their levels.
        thresholds: (m,), finite and strictly increasing. Lists, tuples and NumPy arrays are checked; the values of
            a backend tensor or of a variable are not checked.
        axis: The channel axis.
        surrogate_width: None, or the width `w` of a surrogate gradient of the thresholds, in units of `x`. The true
            derivative with respect to a threshold is 0 almost everywhere. The surrogate treats the step at a threshold
            `s` as if its slope were `max(0, 1 - |x - s| / w) / w`. The output and all other gradients are unaffected.

    Returns:
        A tensor with the shape and dtype of `x`, computed in float32 or wider.

    Raises:
        ValueError: If `axis` is not an axis of `x`, the shapes do not match, the thresholds are not finite and
            increasing, or the width is not positive.
        TypeError: If `thresholds` are not numbers.

    Example: a leaky ReLU in the first channel, and min(x, 0) in the second.

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
    # Cast before the broadcast, so that the gradients of the levels are summed in float32.
    levels = ops.cast(tensor("levels", levels), at_least_float32(x).dtype)
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
    """Returns the sum over the diagonals. Compares `x` with every threshold to find the entries."""
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
    """Returns the sum over the diagonals. A table lookup finds the entries in constant time.

    The thresholds are evenly spaced, so that the interval of `x` ends or starts at the threshold nearest to `x`.
    """
    dtype = x.dtype
    x = at_least_float32(x)
    thresholds = ops.cast(thresholds, x.dtype)
    rank, last = len(x.shape), thresholds.shape[0] - 1
    constant = ops.stop_gradient(x)
    spacing = (thresholds[last] - thresholds[0]) / last
    # Clipped before the cast, because a float may exceed the integers, and after it, because NaN may become any
    # integer.
    position = ops.round((constant - thresholds[0]) / spacing)
    nearest = ops.clip(ops.cast(ops.clip(position, 0, last), "int32"), 0, last)
    above = constant > look_up(thresholds, nearest)
    channels = levels.shape[2]
    # A cumulative sum, because PyTorch cannot compile a NumPy array here, and jax2onnx cannot export `ops.arange`.
    column = along_axis(ops.cumsum(ops.ones((channels,), "int32")) - 1, axis, rank)
    entry = (nearest + ops.cast(above, "int32")) * channels + column
    rows = [ops.reshape(levels[row], (-1,)) for row in range(levels.shape[0])]
    terms = [look_up(row, entry) * x for row in rows]
    return ops.cast(_sum_of_diagonals(terms, axis), dtype)


_compare_by_rows = remat(_compare)
_look_up_by_rows = remat(_look_up, scatters=True)


def _evenly_spaced(thresholds: tuple[float, ...]) -> bool:
    even = np.linspace(thresholds[0], thresholds[-1], len(thresholds))
    return len(thresholds) > 1 and bool(np.max(np.abs(thresholds - even)) < 0.1 * (even[1] - even[0]))


def _check_shapes(
    x_shape: tuple[int | None, ...],
    levels_shape: tuple[int, ...],
    thresholds_shape: tuple[int, ...],
    axis: int,
) -> None:
    """Raises unless the three shapes match."""
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
    """Returns zeros whose derivative with respect to threshold k is the drop in level there times a hat function."""
    surrogate = 0.0
    for k in range(len(steps) - 1):
        hat = ops.relu(1.0 - ops.abs(x - thresholds[k]) / width) / width
        slope = ops.stop_gradient(hat * (steps[k] - steps[k + 1]))
        surrogate = surrogate + slope * (thresholds[k] - ops.stop_gradient(thresholds[k]))
    return surrogate


def _sum_of_diagonals(terms: list[Tensor], axis: int) -> Tensor:
    """Returns the sum of the terms. Entry `i + d` of the term `d` places off the diagonal is added to entry `i`."""
    bandwidth = len(terms) // 2
    total = terms[bandwidth]
    for d in range(1, bandwidth + 1):
        total = total + _shift(terms[bandwidth - d], -d, axis) + _shift(terms[bandwidth + d], d, axis)
    return total


def _shift(x: Tensor, by: int, axis: int) -> Tensor:
    """Returns `x` shifted along `axis`, so that entry `i + by` becomes entry `i`, and padded with zeros."""
    kept, lost = [slice(None)] * len(x.shape), [slice(None)] * len(x.shape)
    length = x.shape[axis]
    kept[axis], lost[axis] = (slice(by, None), slice(0, by)) if by > 0 else (slice(0, by), slice(length + by, None))
    # Not `ops.pad`: PyTorch would recompile it at every call, because Keras numbers the object that it creates.
    parts = [x[tuple(kept)], ops.zeros_like(x[tuple(lost)])]
    return ops.concatenate(parts if by > 0 else parts[::-1], axis=axis)
